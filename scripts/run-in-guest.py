#!/usr/bin/env python3
"""Run a command of this project under a Linux kernel of its own that has device-mapper.

    scripts/run-in-guest.py [--disks 4G,1G] -- COMMAND...

The guest is user-mode Linux: an ordinary process, no KVM, no root, three seconds to start. Its root
is this machine's, read-only, under an overlay; the project's directory is shared read-write under
the same path, and everything else that is written is lost when the guest ends. ``--disks`` gives it
blank disks, which ``$GUEST_DISKS`` names.

Output is copied to stdout, and the command's exit status is returned. 124: the time limit was
reached. 125: the guest never got as far as the command, or died; its console is printed then.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

STEPS = Path(__file__).resolve().with_suffix("")
TIME_LIMIT, DIED = 124, 125
NEEDED = ("linux.uml", "mke2fs", "kmod", "lvs")
FOR_DISKS = 8 << 30  # bytes; they are sparse, and the tests fill a fraction
NOT_EXPORTED = ("TMPDIR", "PWD", "OLDPWD", "SHLVL", "_")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--project", default=Path.cwd(), type=lambda text: Path(text).resolve())
    parser.add_argument("--disks", default="4G", help="sizes of the blank disks (sparse), such as 4G,1G")
    parser.add_argument("--scratch", default="16G", help="room for everything that the guest writes (sparse)")
    parser.add_argument("--memory", type=int, default=2048, help="MiB")
    parser.add_argument("--timeout", type=float, default=1800, help="seconds")
    parser.add_argument(
        "--cpu", type=int, default=0, help="which of this machine's CPUs it keeps to: two guests, two CPUs"
    )
    parser.add_argument("command", nargs="+")
    return parser.parse_args()


def main() -> int:
    wanted = arguments()
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if missing := [tool for tool in NEEDED if not shutil.which(tool)]:
        print(f"run-in-guest: no {', '.join(missing)} here; see: scripts/packages.sh lvm", file=sys.stderr)
        return 2
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    keep_to(wanted.cpu)
    with private_directory("/var/tmp") as control, private_directory(fast_place(wanted.memory)) as place:
        disks = make_disks(place, [wanted.scratch, *wanted.disks.split(",")])
        write_steps(control, wanted.project, wanted.command, len(disks) - 1)
        return run(control, disks, wanted.memory, wanted.timeout)


def keep_to(number: int) -> None:
    """One CPU: the guest's kernel and what runs in it are processes that wait for each other at each page fault.

    Woken on another CPU each time, they take a fifth more of both.
    """
    allowed = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {allowed[number % len(allowed)]})


@contextmanager
def private_directory(place: str) -> Iterator[Path]:
    """What is in there is nobody else's business: the caller's environment, for one."""
    with tempfile.TemporaryDirectory(prefix="guest-", dir=place, ignore_cleanup_errors=True) as name:
        yield Path(name)


def make_disks(place: Path, sizes: list[str]) -> list[Path]:
    """Sparse files; the first has a file system for the overlay."""
    disks = [place / f"disk{number}" for number in range(len(sizes))]
    for disk, size in zip(disks, sizes, strict=True):
        subprocess.run(["truncate", "-s", size, disk], check=True)
    options = ["-O", "^has_journal", "-E", "lazy_itable_init=1,nodiscard"]
    subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", *options, disks[0]], check=True)
    return disks


def write_steps(control: Path, project: Path, command: list[str], blank: int) -> None:
    for step in ("init", "begin"):
        shutil.copy(STEPS / step, control / step)
    (control / "init").chmod(0o755)
    (control / "env").write_text(f"PROJECT={shlex.quote(str(project))}\n")
    names = " ".join(f"/dev/ubd{chr(ord('b') + number)}" for number in range(blank))
    environment = {
        name: value for name, value in os.environ.items() if name.isidentifier() and name not in NOT_EXPORTED
    }
    environment |= {"IN_GUEST": "uml", "GUEST_DISKS": names}
    if not sys.stdout.isatty():
        environment["TERM"] = "dumb"  # what the command sees is a terminal all the same
    exports = "".join(f"export {name}={shlex.quote(value)}\n" for name, value in environment.items())
    (control / "command").write_text(f"{exports}cd {shlex.quote(str(project))}\nexec {shlex.join(command)}\n")


def run(control: Path, disks: list[Path], memory: int, timeout: float) -> int:
    """The exit status of the command, or one of ours."""
    with started(control, disks, memory) as guest:
        try:
            guest.wait(timeout)
        except subprocess.TimeoutExpired:
            print(f"run-in-guest: the time limit of {timeout:g} s is reached", file=sys.stderr)
            return TIME_LIMIT
    try:
        return int((control / "status").read_text())
    except (FileNotFoundError, ValueError):
        console = (control / "console.log").read_text(errors="replace")
        print(f"run-in-guest: the guest ended early; its console:\n{console[-4000:]}", file=sys.stderr)
        return DIED


@contextmanager
def started(control: Path, disks: list[Path], memory: int) -> Iterator[subprocess.Popen[bytes]]:
    drives = [f"ubd{chr(ord('a') + number)}={disk}" for number, disk in enumerate(disks)]
    words = [
        *("linux.uml", f"mem={memory}M", "root=/dev/root", "rootfstype=hostfs", "rootflags=/", "ro"),
        *(f"init={control}/init", "quiet", "panic=-1", f"uml_dir={control}/", "umid=uml"),
        *("con=null", "con0=null,fd:2", "ssl0=null,fd:1", *drives),
    ]
    with (control / "console.log").open("wb") as console:
        guest = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stderr=console,
            env={**os.environ, "TMPDIR": memory_place(control, memory)},
            start_new_session=True,
        )
    try:
        yield guest
    finally:  # it leads its own group: what belongs to it goes too
        with suppress(ProcessLookupError):
            os.killpg(guest.pid, signal.SIGKILL)
        guest.wait()


def memory_place(control: Path, memory: int) -> str:
    """Where the guest's memory, a file that it maps, is kept: in memory where a container has not made that tiny."""
    return "/dev/shm" if shared_memory() > memory << 20 else str(control)


def fast_place(memory: int) -> str:
    """For the disks: in memory too where there is a lot of it, since the tests sync all the time."""
    return "/dev/shm" if shared_memory() > (memory << 20) + FOR_DISKS else "/var/tmp"


def shared_memory() -> int:
    facts = os.statvfs("/dev/shm")
    return facts.f_bavail * facts.f_frsize


if __name__ == "__main__":
    sys.exit(main())
