"""Locks between threads and processes that the kernel releases when their holder dies.

A lock is an flock on its own file, which is never deleted: who would unlink it while others wait
would split them from later comers. The holder writes who it is into the file, for the message of
those who wait too long.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from cowshed import clock
from cowshed.errors import Busy
from cowshed.tools.filesystem import errors_of

_LONGEST_PAUSE = 0.05


@contextmanager
def lock(path: Path, *, shared: bool = False, timeout: float | None = None, what: str = "") -> Iterator[None]:
    """Hold the lock for the block.

    :param timeout: seconds to wait; 0: do not wait; None: for ever
    :param what: the thing, for the message
    :raises Busy: somebody else held it all the time; names the holder
    """
    with errors_of(path, "lock"):
        path.parent.mkdir(parents=True, exist_ok=True)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        _acquire(fd, fcntl.LOCK_SH if shared else fcntl.LOCK_EX, timeout, what or path.name)
        if not shared:
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"process {os.getpid()} on {socket.gethostname()}".encode(), 0)
        yield
    finally:
        os.close(fd)  # releases it


def _acquire(fd: int, kind: int, timeout: float | None, what: str) -> None:
    deadline = clock.Deadline(timeout, what)
    pause = 0.001
    while True:
        try:
            return fcntl.flock(fd, kind | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.EWOULDBLOCK, errno.EINTR):
                raise
        if deadline.passed:
            holder = os.pread(fd, 200, 0).decode(errors="replace") or "somebody"
            raise Busy(what=what, holder=holder, hint="wait until it is done, then try again")
        clock.current().sleep(pause)
        pause = min(pause * 1.5, _LONGEST_PAUSE)


@contextmanager
def several(paths: Iterable[Path], *, timeout: float | None = None) -> Iterator[None]:
    """Hold several locks, taken in sorted order so that two callers never wait for each other."""
    with ExitStack() as stack:
        for path in sorted(set(paths)):
            stack.enter_context(lock(path, timeout=timeout))
        yield
