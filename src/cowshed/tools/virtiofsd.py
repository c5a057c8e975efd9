"""virtiofsd, where libvirt starts none: the process that serves one directory to one guest.

It is started before its guest, takes one connection, and ends by itself with it. It outlives us. A file says
which process it is, and the process holds a lock on that file as long as it lives: nobody else's process is
taken for it, and none is signalled but through its pidfd.

As an ordinary user it runs in a user namespace that has the user's subordinate numbers (/etc/subuid): virtiofsd
of QEMU 7.2 begins by changing its groups, which needs some. The guest's root is the user, and its other users
are those numbers.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import select
import signal
import socket as sockets
import subprocess
import threading
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Final

from cowshed import log
from cowshed.clock import Deadline, current
from cowshed.config import user
from cowshed.errors import InvalidRequest, OperatorError, ToolFailed, ToolMissing, UnsupportedOperation
from cowshed.tools import filesystem, run

_log = log.logger(__name__)

NAME: Final = "virtiofsd"
PACKAGE: Final = "qemu-system-common"
SYSTEM: Final = (Path("/etc/qemu/vhost-user"), Path("/usr/share/qemu/vhost-user"))
SUBORDINATE: Final = (Path("/etc/subuid"), Path("/etc/subgid"))
START: Final = 10.0  # seconds until it listens
_END: Final = 5.0  # seconds it may take to end when it is asked to
_LOOK: Final = 0.02  # seconds between two looks
_LONGEST: Final = 107  # bytes of a unix socket's path
_LISTENS: Final = b"Waiting for vhost-user socket connection"

# $0: a file for who it is. It writes that itself, so that it can be found also when we die at this moment.
_NAMED: Final = 'printf "%s %s\\n" $$ "$(cut -d" " -f22 "/proc/$$/stat")" >"$0" && exec "$@"'
# $1: what is shared, $2: mount options; then the command.
_READ_ONLY: Final = 'mount --bind -- "$1" "$1" && mount -o "remount,bind,$2" -- "$1" || exit 1; shift 2; exec "$@"'


def find(folders: Iterable[Path] = SYSTEM) -> str | None:
    """Its absolute path, as QEMU's packages declare it (docs/interop/vhost-user.json), or None."""
    if found := run.find(NAME):
        return found
    for folder in folders:
        for path in sorted(folder.glob("*.json")):
            with suppress(OSError, ValueError, KeyError, TypeError):
                described = json.loads(path.read_text())
                if described["type"] == "fs" and run.find(described["binary"]):
                    return str(described["binary"])
    return None


def require() -> str:
    """:raises ToolMissing:"""
    if found := find():
        return found
    raise ToolMissing(tool=NAME, hint=f"install the package {PACKAGE} (Debian 13: {NAME})")


def unable(subordinate: Iterable[Path] = SUBORDINATE) -> str:
    """Why this user cannot start it; "" where it can be."""
    if os.geteuid() == 0:
        return ""
    name = user.name()
    if run.find("newuidmap") is None:
        return f"as user {name} virtiofsd needs the program newuidmap, which is not installed"
    if missing := [str(path) for path in subordinate if not _has_line(path, name)]:
        return f"virtiofsd needs subordinate numbers of user {name}, and {' and '.join(missing)} give none"
    return ""


def remedy() -> str:
    """What mends :func:`unable`."""
    numbers = "--add-subuids 100000-165535 --add-subgids 100000-165535"
    return f"sudo apt install uidmap; sudo usermod {numbers} {user.name()}"


def check(socket: Path) -> None:
    """Everything that can be known before it is started.

    :raises ToolMissing: :raises UnsupportedOperation: an ordinary user has no subordinate numbers
    :raises InvalidRequest: the socket's path is too long
    """
    require()
    if len(os.fsencode(socket)) > _LONGEST:
        raise InvalidRequest(
            reason=f"{socket} is too long for a socket", hint="set XDG_RUNTIME_DIR to a shorter directory"
        )
    if reason := unable():
        raise UnsupportedOperation(
            subject="this host", operation="share directories with a guest", reason=reason, hint=remedy()
        )


def _has_line(path: Path, user: str) -> bool:
    names = (user, str(os.geteuid()))
    with suppress(OSError):
        return any(line.partition(":")[0] in names for line in path.read_text().splitlines())
    return False


# --- one of them ------------------------------------------------------------------------------


def start(directory: Path, *, socket: Path, pidfile: Path, output: Path, read_only: bool = False) -> None:
    """Serve ``directory`` to who connects to ``socket`` next; on return it listens.

    :param pidfile: names the process; one that it names already is ended first
    :param output: a file for what it prints
    :raises ToolMissing: :raises ToolFailed: it does not run
    """
    program = require()
    stop(pidfile)
    filesystem.make_directory(socket.parent, mode=0o700)
    filesystem.remove_file(socket)
    with (
        filesystem.errors_of(pidfile, "create"),
        closing(sockets.socket(sockets.AF_UNIX)) as listener,
        open(pidfile, "w") as holder,
        open(output, "wb") as log_file,
    ):
        fcntl.flock(holder, fcntl.LOCK_EX)  # who looks whether it is alive holds it for a moment
        listener.bind(str(socket))
        socket.chmod(0o600)
        listener.listen(1)
        words = command(program, directory, listener.fileno(), read_only=read_only)
        process = subprocess.Popen(
            ["sh", "-c", _NAMED, str(pidfile), *words],
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=log_file,
            env=run.environment(),
            cwd="/",
            start_new_session=True,
            pass_fds=(listener.fileno(), holder.fileno()),
        )
    threading.Thread(target=process.wait, daemon=True).start()  # so that no dead child stays with us
    try:
        _listening(process.pid, pidfile, output, words)
    except BaseException:
        stop(pidfile)
        filesystem.remove_file(socket)
        raise


def command(program: str, directory: Path, listener: int, *, read_only: bool) -> list[str]:
    """:param listener: the number of a descriptor that listens"""
    root = os.geteuid() == 0
    spaces = [] if root else ["--user", "--map-user=0", "--map-group=0", "--map-auto"]
    prefix = []
    if read_only:
        options = ",".join(["ro", *filesystem.mount_flags(directory)])
        spaces += ["--mount", "--propagation", "private"]
        prefix = ["sh", "-c", _READ_ONLY, "sh", str(directory), options]
    if spaces:
        prefix = [run.require("unshare"), *spaces, "--", *prefix]
    limits = [] if root else ["--rlimit-nofile=0"]  # more than it has, only root may give it
    return [*prefix, program, f"--fd={listener}", "-o", f"source={directory}", *limits, "-f"]


def _listening(pid: int, pidfile: Path, output: Path, words: list[str]) -> None:
    """:raises ToolFailed: it has ended :raises DeadlineExceeded: it is not ready in time"""
    deadline = Deadline(START, f"{NAME} listening")
    while _LISTENS not in output.read_bytes():
        if not alive(pidfile):
            raise ToolFailed(command=" ".join(words), status=1, output=last_words(output))
        deadline.check()
        _ended(pid, _LOOK)


def last_words(output: Path) -> str:
    """What it has printed last."""
    try:
        lines = [line.strip() for line in output.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        lines = []
    return " | ".join(lines[-3:])[-run.WORDS :] or "it said nothing"


def alive(pidfile: Path) -> bool:
    """Does the process of ``pidfile`` still run?"""
    try:
        fd = os.open(pidfile, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except BlockingIOError:
        return True
    finally:
        os.close(fd)


def stop(pidfile: Path) -> None:
    """End the process of ``pidfile``, by force if it must be; already gone is success.

    :raises OperatorError: it does not end
    """
    if alive(pidfile):
        _end(pidfile)
    filesystem.remove_file(pidfile)


def _end(pidfile: Path) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        pid = _pid(pidfile)
        if pid is not None:
            _signal(pid, number)
        deadline = Deadline(_END, f"{NAME} ended")
        while not deadline.passed:
            if not alive(pidfile):
                return
            if pid is None or _ended(pid, _LOOK):
                current().sleep(_LOOK)  # it may have a child of its own, which ends after it
    raise OperatorError(reason=f"{NAME} of {pidfile} does not end", hint="is its file system stuck?")


def _pid(pidfile: Path) -> int | None:
    """None: the file does not say, or another process has the number now."""
    with suppress(OSError, ValueError):
        pid, started = pidfile.read_text().split()
        if started == _started(int(pid)):
            return int(pid)
    return None


def _started(pid: int) -> str:
    """When process ``pid`` began, in the kernel's ticks: with its number it is one process for good."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]


@contextmanager
def _process(pid: int) -> Iterator[int | None]:
    """A descriptor of the process; None: it has ended (EINVAL while the kernel takes it away)."""
    try:
        fd = os.pidfd_open(pid)
    except OSError as error:
        if error.errno not in (errno.ESRCH, errno.EINVAL):
            raise
        yield None
        return
    try:
        yield fd
    finally:
        os.close(fd)


def _signal(pid: int, number: signal.Signals) -> None:
    with _process(pid) as fd, suppress(ProcessLookupError):
        if fd is not None:
            signal.pidfd_send_signal(fd, number)


def _ended(pid: int, seconds: float) -> bool:
    """Wait for the end of ``pid`` at most ``seconds``."""
    with _process(pid) as fd:
        if fd is None:
            return True
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        return bool(poll.poll(seconds * 1000))
