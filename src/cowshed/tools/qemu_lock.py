"""Is an image open in QEMU? Asked of the kernel, without opening a format or waiting.

QEMU (and qemu-img, qemu-nbd, qemu-storage-daemon) locks bytes 100 to 263 of every image file it has
open for a guest, with locks of the open file description (util in QEMU's block/file-posix.c:
RAW_LOCK_PERM_BASE 100, RAW_LOCK_SHARED_BASE 200, 64 permissions). They go away with the process.
"""

from __future__ import annotations

import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from cowshed.errors import Busy
from cowshed.tools import filesystem

_GETLK: Final = 36  # F_OFD_GETLK, linux/fcntl.h
_FLOCK: Final = struct.Struct("hhqqi4x")  # struct flock on 64-bit Linux
_FIRST, _COUNT = 100, 164


def held(path: Path) -> bool:
    """Some process has the image file ``path`` open as QEMU does. :raises NotFound:"""
    with filesystem.errors_of(path, "open"):
        fd = filesystem.open_regular(path)
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, _FIRST, _COUNT, 0)
        kind = _FLOCK.unpack(fcntl.fcntl(fd, _GETLK, asked))[0]
        return bool(kind != fcntl.F_UNLCK)
    except OSError:  # a file system without locks: QEMU takes none there either
        return False
    finally:
        os.close(fd)


def refuse_held(path: Path, what: str) -> None:
    """:raises Busy: the image is in use"""
    if held(path):
        raise Busy(what=what, holder="a guest or a tool", hint="stop the instance first")
