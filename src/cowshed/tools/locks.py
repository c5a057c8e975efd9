"""Locks between threads and processes that the kernel releases when their holder dies.

A lock is an flock on its own file. Who removes that file while others wait splits them from later
comers; so only :func:`remove` does, which holds the lock meanwhile, and whoever has got a lock looks
whether its file still has the name. The holder writes who it is into the file, for the message of
those who wait too long.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from cowshed import clock
from cowshed.errors import Busy
from cowshed.tools.filesystem import errors_of

_LONGEST_PAUSE = 0.05
_IN_DIRECTORY = ".lock"
_HOLDER = 200  # bytes at the start of the file that say who holds it


@contextmanager
def lock(path: Path, *, shared: bool = False, timeout: float | None = None, what: str = "") -> Iterator[None]:
    """Hold the lock for the block.

    :param timeout: seconds to wait; 0: do not wait; None: for ever
    :param what: the thing, for the message
    :raises Busy: somebody else held it all the time; names the holder
    """
    deadline = clock.Deadline(timeout, what or path.name)
    fd = _hold(path, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, deadline)
    try:
        if not shared:
            with suppress(OSError):  # on a full disk it is not said
                os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}".encode().ljust(_HOLDER), 0)
        yield
    finally:
        os.close(fd)  # releases it


@contextmanager
def directory(path: Path, *, timeout: float | None = None, what: str = "") -> Iterator[int]:
    """Hold the lock of a directory itself, so that no lock file needs to be made; yields its descriptor.

    Where a directory cannot be locked (NFS wants a file open for writing), a file in it is.

    :raises Busy: :raises NotFound: there is no such directory
    """
    deadline = clock.Deadline(timeout, what or path.name)
    with ExitStack() as stack:
        while True:
            with errors_of(path, "lock"):
                fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                _acquire(fd, fcntl.LOCK_EX, deadline)
                if _is_at(fd, path):
                    break
            except OSError as error:
                if error.errno not in (errno.EBADF, errno.EOPNOTSUPP, errno.EINVAL):
                    os.close(fd)
                    raise
                try:
                    stack.enter_context(lock(path / _IN_DIRECTORY, timeout=timeout, what=what))
                except BaseException:
                    os.close(fd)
                    raise
                break
            except BaseException:
                os.close(fd)
                raise
            os.close(fd)
        try:
            yield fd
        finally:
            os.close(fd)


def remove(path: Path) -> None:
    """The file of a lock whose thing is gone. Held by somebody, or gone already, it is left as it is.

    Not after every use: on a full disk no file could be made for the next one.
    """
    with errors_of(path, "remove"):
        try:
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_at(fd, path):
                path.unlink()
        except BlockingIOError:
            return
        finally:
            os.close(fd)


def _hold(path: Path, kind: int, deadline: clock.Deadline) -> int:
    """A descriptor with the lock, of the file that ``path`` names now.

    A lock file goes away with the directory it lies in, or by :func:`remove`; who waited for it
    meanwhile would hold a lock that nobody else sees, and so begins again (and does not bring the
    directory back).
    """
    with errors_of(path, "lock"):
        path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        with errors_of(path, "lock"):
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            _acquire(fd, kind, deadline)
            if _is_at(fd, path):
                return fd
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


def _is_at(fd: int, path: Path) -> bool:
    try:
        ours = os.fstat(fd)
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    except OSError as error:
        if error.errno == errno.ESTALE:  # another host has removed it
            return False
        raise
    # An NFS client may go on finding the name of what has none any more.
    return ours.st_nlink > 0 and (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _acquire(fd: int, kind: int, deadline: clock.Deadline) -> None:
    pause = 0.001
    while True:
        try:
            return fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                raise
        if deadline.passed:
            raise Busy(what=deadline.what, holder=_holder(fd), hint="wait until it is done, then try again")
        clock.current().sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


def _holder(fd: int) -> str:
    """Who holds it: what the holder wrote into the file, else the process the kernel names."""
    facts = os.fstat(fd)
    if stat.S_ISREG(facts.st_mode) and (text := os.pread(fd, _HOLDER, 0).decode(errors="replace").strip()):
        return text
    place = f"{os.major(facts.st_dev):02x}:{os.minor(facts.st_dev):02x}:{facts.st_ino}"
    with suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if len(words) > 5 and words[1] == "FLOCK" and words[5] == place:
                return f"process {words[4]}"
    return "somebody"


@contextmanager
def several(paths: Iterable[Path], *, timeout: float | None = None) -> Iterator[None]:
    """Hold several locks, taken in sorted order so that two callers never wait for each other."""
    with ExitStack() as stack:
        for path in sorted(set(paths)):
            stack.enter_context(lock(path, timeout=timeout))
        yield
