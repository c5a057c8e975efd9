"""The one door to processes: a list of arguments, no shell, a deadline, bounded output.

A child gets a clean environment, ``/dev/null`` as standard input, its own process group (ended as
a whole on a deadline or an interruption) and dies with us (PR_SET_PDEATHSIG).
"""

from __future__ import annotations

import os
import select
import shlex
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

from cowshed import log
from cowshed.errors import DeadlineExceeded, ToolFailed, ToolMissing
from cowshed.tools.limits import NAMES, NONE, Limits

_log = log.logger(__name__)

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OUTPUT = 1 << 20  # bytes kept of what a tool prints
_LAST_WAIT = 5.0  # seconds for a killed process to go away
_LONGEST_WAIT = (1 << 31) - 1  # milliseconds, poll(2)'s: 24 days
WORDS = 500  # characters of a failed tool's last words

PACKAGES = {
    "qemu-img": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "mkfs.vfat": "dosfstools",
    "libvirtd": "libvirt-daemon",
    "ssh": "openssh-client",
    "nft": "nftables",
    "ovs-vsctl": "openvswitch-switch",
    "ovs-dpctl": "openvswitch-switch",
}


@dataclass(frozen=True, slots=True)
class Result:
    """What a tool left: exit status and the (bounded) output."""

    command: tuple[str, ...]
    status: int
    stdout: bytes
    stderr: bytes


def find(tool: str) -> str | None:
    """The absolute path of ``tool``, or None. ``COWSHED_PATH`` names directories to look in first."""
    if "/" in tool:
        return tool if os.access(tool, os.X_OK) else None
    # No empty entry: it would be the current directory, where anybody may have put a qemu-img.
    places = [place for place in os.environ.get("COWSHED_PATH", "").split(":") if place.startswith("/")]
    return shutil.which(tool, path=":".join([*places, PATH]))


def require(tool: str) -> str:
    """The absolute path of ``tool``. :raises ToolMissing:"""
    if path := find(tool):
        return path
    package = PACKAGES.get(tool)
    raise ToolMissing(tool=tool, hint=f"install the package {package}" if package else None)


def run(
    command: Sequence[str | Path],
    *,
    timeout: float = 300.0,
    input: bytes | None = None,
    limits: Limits = NONE,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    check: bool = True,
    pass_fds: Sequence[int] = (),
    whole: bool = False,
    keep: int = OUTPUT,
) -> Result:
    """Run a tool to its end.

    :param timeout: seconds of wall clock
    :param whole: a short one that must not stop half way: it outlives us, and an interruption
        waits for it. For LVM, which would leave suspended devices behind
    :param keep: bytes kept of what it prints, the last ones
    :raises ToolMissing: it is not installed
    :raises ToolFailed: its exit status is not 0 (only with ``check``)
    :raises DeadlineExceeded: it was ended because it took too long
    """
    arguments = [require(str(command[0])), *(str(word) for word in command[1:])]
    prefix = [] if whole else [*_die_with_us(), *_limited(limits)]
    process = _start([*prefix, *arguments], input is not None, env, cwd, pass_fds)
    try:
        stdout, stderr = _communicate(process, input, timeout, shlex.join(arguments), keep)
    except DeadlineExceeded:
        end(process)
        raise
    except BaseException:
        if whole:
            _ended(process, timeout)
        end(process)
        raise
    _log.debug("%s: status %d", shlex.join(arguments), process.returncode)
    if check and process.returncode:
        raise ToolFailed(command=shlex.join(arguments), status=process.returncode, output=_last_words(stderr or stdout))
    return Result(tuple(arguments), process.returncode, stdout, stderr)


def _start(
    arguments: list[str],
    has_input: bool,
    env: Mapping[str, str] | None,
    cwd: Path | None,
    pass_fds: Sequence[int],
) -> subprocess.Popen[bytes]:
    try:
        process = subprocess.Popen(
            arguments,
            stdin=subprocess.PIPE if has_input else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(env),
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
    except FileNotFoundError as error:
        raise ToolMissing(tool=arguments[0]) from error
    return process


@cache
def _die_with_us() -> tuple[str, ...]:
    """A prefix that has the kernel end the tool when we die; setpriv is in util-linux, always there on Debian."""
    setpriv = find("setpriv")
    return (setpriv, "--pdeathsig", "KILL", "--") if setpriv else ()


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What every child gets: no locale surprises, no loader or proxy variables of the caller."""
    kept = {name: os.environ[name] for name in ("HOME", "TMPDIR", "XDG_RUNTIME_DIR") if name in os.environ}
    return {**kept, "LC_ALL": "C.UTF-8", "PATH": PATH, "MALLOC_ARENA_MAX": "1", **(extra or {})}


def _limited(limits: Limits) -> list[str]:
    """A prefix that sets the limits before the tool begins (util-linux's prlimit).

    Setting them in the child would need Python code after fork, which is slow and not safe with
    threads; from outside they would come too late.
    """
    words = [f"--{NAMES[kind]}={value}:{value}" for kind, value in limits.resources()]
    return [require("prlimit"), *words, "--"]


def _communicate(
    process: subprocess.Popen[bytes], input: bytes | None, timeout: float, what: str, keep: int
) -> tuple[bytes, bytes]:
    """:raises DeadlineExceeded: it still runs after ``timeout`` seconds"""
    outputs = [bytearray(), bytearray()]
    threads = [
        threading.Thread(target=_drain, args=(pipe, output, keep), daemon=True)
        for pipe, output in zip((process.stdout, process.stderr), outputs, strict=True)
        if pipe
    ]
    if process.stdin:
        threads.append(threading.Thread(target=_feed, args=(process.stdin, input or b""), daemon=True))
    for thread in threads:
        thread.start()
    if not _ended(process, timeout):
        raise DeadlineExceeded(what=what, seconds=timeout)
    for thread in threads:
        thread.join(5)  # a grandchild that went away on its own may keep a pipe open
    return bytes(outputs[0]), bytes(outputs[1])


def _ended(process: subprocess.Popen[bytes], timeout: float) -> bool:
    """Wait on a descriptor of the process: Popen.wait(timeout) sleeps up to 50 ms between looks."""
    pidfd = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        if not poll.poll(min(timeout * 1000, _LONGEST_WAIT)):
            return False
    finally:
        os.close(pidfd)
    process.wait()
    return True


def _feed(pipe: IO[bytes], data: bytes) -> None:
    """A tool that does not read its input must not keep us."""
    with suppress(OSError), pipe:
        pipe.write(data)


def _drain(pipe: IO[bytes], output: bytearray, keep: int) -> None:
    """Read to the end, keep the last ``keep`` bytes."""
    with suppress(OSError, ValueError), pipe:
        while chunk := pipe.read1(65536):  # type: ignore[attr-defined]
            output += chunk
            if len(output) > 2 * keep:
                del output[:-keep]


def end(process: subprocess.Popen[bytes]) -> None:
    """End a child and everything it started; its pipes end with it.

    A process that the kernel cannot end (stuck in a driver) is left behind, not waited for.
    """
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):
        process.wait(_LAST_WAIT)


def replace(command: Sequence[str]) -> None:
    """Become ``command`` (an interactive program such as ssh); returns only by an error."""
    os.execv(require(command[0]), list(command))  # noqa: S606


def _last_words(output: bytes) -> str:
    lines = [line.strip() for line in output.decode(errors="replace").splitlines() if line.strip()]
    return " | ".join(lines[-3:])[-WORDS:] or "it said nothing"
