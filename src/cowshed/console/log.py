"""The serial console's log: its end, and what is added to it.

The file belongs to QEMU or libvirt's virtlogd, its bytes to the guest: both are only ever read as
bytes, within bounds, and never through a symbolic link. virtlogd rotates ``console.log`` to
``console.log.0``, ``.1`` and so on, the newest being ``.0``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cowshed import clock
from cowshed.clock import Deadline
from cowshed.errors import InvalidRequest, PermissionDenied

INTERVAL: Final = 0.05  # seconds between two looks at a file that does not grow
CHUNK: Final = 64 * 1024
WORDS: Final = 64 * 1024  # longest text that `until` may be, and what of the past is kept to find it
ROTATED: Final = 100  # virtlogd keeps 3 by default


def tail(path: Path, size: int) -> bytes:
    """The last ``size`` bytes, reaching back into rotated files; b"" when there is no log yet.

    :raises PermissionDenied: :raises InvalidRequest: it is not a regular file
    """
    parts: list[bytes] = []
    left = size
    for source in (path, *_rotated(path)):
        if left <= 0:
            break
        data = _end(source, left)
        parts.append(data)
        left -= len(data)
    return b"".join(reversed(parts))


def follow(
    path: Path, *, until: str | bytes | None = None, timeout: float | None = None, start: int = 0
) -> Iterator[bytes]:
    """The log from byte ``start`` and what is added, in pieces, until ``until`` has appeared.

    The line with ``until`` is the last that is given, whole where it is there already. The file need not exist yet; when it is rotated or begun again, reading goes on in the new one.
    Without ``until`` it ends only with the deadline, or when the caller stops asking.

    :raises DeadlineExceeded: ``until`` did not appear within ``timeout`` seconds
    """
    wanted = until.encode() if isinstance(until, str) else until
    if wanted is not None and not 0 < len(wanted) <= WORDS:
        raise InvalidRequest(reason=f"the text to wait for must have 1 to {WORDS} bytes")
    deadline = Deadline(timeout, f"{until!r} on the console" if until else "the end of the console")
    seen = b""
    for data in _grow(path, start, deadline):
        if wanted is not None:
            before, seen = len(seen), seen + data
            if (at := seen.find(wanted)) >= 0:
                yield data[: _line_end(seen, at + len(wanted)) - before]
                return
            seen = seen[-(len(wanted) - 1) :] if len(wanted) > 1 else b""
        if data:
            yield data
        else:
            deadline.check()


def _line_end(text: bytes, position: int) -> int:
    """Behind the line break that follows ``position``; the end of what there is without one."""
    newline = text.find(b"\n", position)
    return len(text) if newline < 0 else newline + 1


def _grow(path: Path, position: int, deadline: Deadline) -> Iterator[bytes]:
    """Pieces of the file; b"" after each look that found nothing new."""
    descriptor: int | None = None
    try:
        while True:
            if descriptor is None:
                descriptor = _open(path)
            data = b"" if descriptor is None else os.pread(descriptor, CHUNK, position)
            position += len(data)
            if not data and descriptor is not None:
                if _replaced(path, descriptor):
                    # What was written between our last look and the rotation is read before we move on.
                    data = os.pread(descriptor, CHUNK, position)
                    position += len(data)
                    if not data:
                        os.close(descriptor)
                        descriptor, position = None, 0
                elif os.fstat(descriptor).st_size < position:
                    position = 0  # begun again: a new boot truncates it
            yield data
            if not data:
                left = deadline.remaining()
                clock.current().sleep(INTERVAL if left is None else min(INTERVAL, left))
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _replaced(path: Path, descriptor: int) -> bool:
    """Is the name another file's by now? A name that is gone is not: it may come back."""
    try:
        named = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    ours = os.fstat(descriptor)
    return (named.st_dev, named.st_ino) != (ours.st_dev, ours.st_ino)


def _rotated(path: Path) -> Iterator[Path]:
    """The rotated files, newest first."""
    for number in range(ROTATED):
        older = path.with_name(f"{path.name}.{number}")
        if not os.path.lexists(older):
            return
        yield older


def _end(path: Path, size: int) -> bytes:
    with _reading(path) as descriptor:
        if descriptor is None:
            return b""
        end = os.fstat(descriptor).st_size
        position, parts = max(0, end - size), []
        while position < end and (data := os.pread(descriptor, min(CHUNK, end - position), position)):
            parts.append(data)
            position += len(data)
    return b"".join(parts)


@contextmanager
def _reading(path: Path) -> Iterator[int | None]:
    descriptor = _open(path)
    try:
        yield descriptor
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _open(path: Path) -> int | None:
    """For reading; None when it is not there. A pipe or device in its place is refused, not waited for."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise PermissionDenied(action="read", path=path) from error
    except OSError as error:
        raise InvalidRequest(reason=f"{path} is not a console log: {error.strerror}") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise InvalidRequest(reason=f"{path} is not a console log: it is not a regular file")
    return descriptor
