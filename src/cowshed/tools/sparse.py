"""Files with holes: what data is in them, copies of it, and blocks for it."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.units import MiB

_CHUNK = 4 * MiB
_ALIGN = 4096  # at least the logical block size of any disk
_SYNC_FILE_RANGE_WRITE = 2
_FALLOC_KEEP_SIZE = 1

_libc = ctypes.CDLL(None, use_errno=True)


def extents(fd: int, end: int | None = None, *, start: int = 0) -> Iterator[tuple[int, int]]:
    """(offset, length) of the data in a sparse file, holes left out."""
    end = os.fstat(fd).st_size if end is None else end
    offset = start
    while offset < end:
        try:
            data = os.lseek(fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        if data >= end:
            return
        offset = min(os.lseek(fd, data, os.SEEK_HOLE), end)
        yield data, offset - data


def copy(source: int, target: int, *, share: bool = True, progress: Progress = SILENT) -> int:
    """Copy the data extents of ``source`` to the empty file ``target``; returns bytes of data.

    Written past the page cache where that can be done. Measured on ext4, 600 MiB of data in cache,
    durable: 0.22 s and 0.08 s of CPU; by copy_file_range(2) 0.2 to 1.7 s and as much CPU.

    :param share: where the page cache is used, blocks may be shared (copy_file_range does so on
        XFS and Btrfs); off: the copy gets blocks of its own
    """
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    copied = 0
    with _Direct(target) as direct:
        for offset, extent in extents(source, size):
            end = offset + extent
            while offset < end:
                progress.check()
                length = min(_CHUNK, end - offset)
                done = direct.copy(source, offset, length) or _buffered(source, target, offset, length, share)
                offset += done
                copied += done
                progress.update(done)
    return copied


class _Direct:
    """Copies aligned pieces to the same offset of a file with O_DIRECT."""

    def __init__(self, target: int) -> None:
        self._fd: int | None = None
        with suppress(OSError):  # tmpfs, for one, has no O_DIRECT
            self._fd = os.open(f"/proc/self/fd/{target}", os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC)
        self._view = memoryview(mmap.mmap(-1, _CHUNK))  # memory that is aligned

    def __enter__(self) -> _Direct:
        return self

    def __exit__(self, *_: object) -> None:
        self._give_up()

    def copy(self, source: int, offset: int, length: int) -> int:
        """Bytes copied; 0 when it must be done in another way."""
        length -= length % _ALIGN
        if self._fd is None or not length or offset % _ALIGN:
            return 0
        done = os.preadv(source, [self._view[:length]], offset)
        done -= done % _ALIGN
        if not done:
            return 0
        try:
            return os.pwrite(self._fd, self._view[:done], offset)
        except OSError as error:
            if error.errno != errno.EINVAL:  # larger blocks than _ALIGN
                raise
            self._give_up()
            return 0

    def _give_up(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def _buffered(source: int, target: int, offset: int, length: int, share: bool) -> int:
    done = (share and _copy_range(source, target, offset, length)) or _read_write(source, target, offset, length)
    start_writing(target, offset, done)
    return done


def _copy_range(source: int, target: int, offset: int, length: int) -> int:
    """In the kernel; 0 where that cannot be done."""
    try:
        return os.copy_file_range(source, target, length, offset, offset)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL):
            raise
        return 0


def _read_write(source: int, target: int, offset: int, length: int) -> int:
    data = os.pread(source, min(length, MiB), offset)
    if not data:
        raise OSError(errno.EIO, "the file became shorter while it was copied")
    return os.pwrite(target, data, offset)


def start_writing(fd: int, offset: int, length: int) -> None:
    """Ask the kernel to begin writing this range back; does not wait (sync_file_range(2))."""
    _libc.sync_file_range(
        ctypes.c_int(fd), ctypes.c_int64(offset), ctypes.c_int64(length), ctypes.c_uint(_SYNC_FILE_RANGE_WRITE)
    )


# --- space ------------------------------------------------------------------------------------


def allocated(path: Path) -> int:
    """Bytes the file occupies on disk."""
    return path.stat().st_blocks * 512


def preallocate(fd: int, start: int, end: int) -> None:
    """Have blocks for these bytes; they read as before (new ones as zero)."""
    if end > start:
        os.posix_fallocate(fd, start, end - start)


def reserve(fd: int, size: int) -> None:
    """Keep blocks for a file of ``size`` bytes without making it longer.

    :raises OSError: EOPNOTSUPP where the file system cannot
    """
    if _libc.fallocate(fd, _FALLOC_KEEP_SIZE, ctypes.c_int64(0), ctypes.c_int64(size)):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def write_holes(fd: int, start: int, end: int) -> None:
    """Write zeros where no data is, so that every block is there and initialised."""
    zeros = memoryview(bytes(4 * MiB))
    position = start
    for data, length in [*extents(fd, end, start=start), (end, 0)]:
        while position < data:
            done = os.pwrite(fd, zeros[: min(len(zeros), data - position)], position)
            start_writing(fd, position, done)
            position += done
        position = data + length
