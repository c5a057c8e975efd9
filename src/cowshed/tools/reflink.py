"""Blocks that two files share (XFS, Btrfs): ioctl_ficlonerange(2)."""

from __future__ import annotations

import errno
import fcntl
import struct
from functools import lru_cache
from pathlib import Path

from cowshed.tools import filesystem

FICLONE = 0x40049409  # linux/fs.h
FICLONERANGE = 0x4020940D


def clone(source: int, target: int) -> bool:
    """Share all blocks of ``source`` with ``target``; False where the file system cannot."""
    return _cloned(target, FICLONE, source)


def clone_range(source: int, target: int, offset: int) -> bool:
    """Share all blocks of ``source`` with ``target`` from ``offset`` on, a multiple of the block size.

    :return: False where the file system cannot
    """
    return _cloned(target, FICLONERANGE, struct.pack("qQQQ", source, 0, 0, offset))


def _cloned(target: int, request: int, argument: int | bytes) -> bool:
    try:
        fcntl.ioctl(target, request, argument)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM):
            return False
        raise
    return True


def possible(directory: Path) -> bool:
    """Tried once for each file system."""
    place = filesystem.nearest(directory)
    return _possible(place.stat().st_dev, place)


@lru_cache
def _possible(device: int, place: Path) -> bool:
    import tempfile

    try:
        with tempfile.TemporaryFile(dir=place) as source, tempfile.TemporaryFile(dir=place) as target:
            source.write(b"x" * 4096)
            source.flush()
            return clone(source.fileno(), target.fileno())
    except OSError:
        return False
