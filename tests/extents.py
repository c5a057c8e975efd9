"""What a file really takes of its file system: blocks that are its own, and not shared with a reflink."""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path

_FIEMAP = 0xC020660B  # FS_IOC_FIEMAP, linux/fs.h
_SYNC, _LAST, _SHARED = 0x1, 0x1, 0x2000  # linux/fiemap.h
_HEAD = struct.Struct("QQIIII")
_EXTENT = struct.Struct("QQQ16xI12x")
_COUNT = 512


def exclusive(path: Path) -> int:
    """Bytes of ``path`` in blocks that no other file has."""
    fd, total, start = os.open(path, os.O_RDONLY), 0, 0
    try:
        if not _has_extents(fd):
            return path.stat().st_blocks * 512
        while True:
            buffer = bytearray(_HEAD.size + _COUNT * _EXTENT.size)
            _HEAD.pack_into(buffer, 0, start, (1 << 64) - 1 - start, _SYNC, 0, _COUNT, 0)
            fcntl.ioctl(fd, _FIEMAP, buffer)
            mapped = _HEAD.unpack_from(buffer)[3]
            for number in range(mapped):
                logical, _, length, flags = _EXTENT.unpack_from(buffer, _HEAD.size + number * _EXTENT.size)
                total += 0 if flags & _SHARED else length
                start = logical + length
                if flags & _LAST:
                    return total
            if not mapped:
                return total
    finally:
        os.close(fd)


def _has_extents(fd: int) -> bool:
    """tmpfs, for one, has none, and shares no blocks."""
    try:
        fcntl.ioctl(fd, _FIEMAP, bytearray(_HEAD.pack(0, (1 << 64) - 1, 0, 0, 0, 0)))
    except OSError:
        return False
    return True
