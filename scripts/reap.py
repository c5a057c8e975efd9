#!/usr/bin/env python3
"""Run a command, and take leave at once of whatever outlives its parent below it.

    scripts/reap.py COMMAND...

A QEMU that libvirt has started belongs to the first process of the machine, and libvirt waits until that has noticed
its end. The init of some containers looks every two seconds only, and so long each guest takes to go away. Here it
belongs to us. The exit status is the command's; what still runs when that has ended goes on.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from types import FrameType

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def main(command: list[str]) -> int:
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        print(f"reap.py: {os.strerror(ctypes.get_errno())}; orphans are left to init", file=sys.stderr)
    process = subprocess.Popen(command)

    def pass_on(number: int, _: FrameType | None) -> None:
        os.kill(process.pid, number)

    signal.signal(signal.SIGTERM, pass_on)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: None)  # a terminal, and timeout(1), say it to both of us
    while True:
        pid, status = os.wait()
        if pid == process.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
