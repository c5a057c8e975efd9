"""Layers of a disk, read by guest offset: raw files and qcow2 files over each other.

Formats and parents are given by the caller; what a qcow2 header says of its parent is not looked
at, since a guest may have written it.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
from array import array
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

from cowshed.errors import DataCorrupt
from cowshed.tools.qcow2 import header as qcow2

ZERO: Final = bytes(2 << 20)

_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED = 1 << 62
_TABLES = 16  # L2 tables kept; each covers 512 MiB with 64 KiB clusters


class Layer(Protocol):
    size: int

    def fill(self, buffer: memoryview, start: int) -> bool:
        """Fill ``buffer`` with the disk's bytes from ``start`` on; False, and nothing done, when all are zero."""

    def next_data(self, start: int) -> int:
        """The first offset from ``start`` on that may hold data; ``size`` (or more) when none does."""


class RawLayer:
    """A raw file or block device; what is behind its end reads as zero."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.lseek(fd, 0, os.SEEK_END)  # fstat(2) knows no size of a device

    def fill(self, buffer: memoryview, start: int) -> bool:
        if start >= self.size or self.next_data(start) >= start + len(buffer):
            return False
        read_into(self.fd, buffer, start)
        return True

    def next_data(self, start: int) -> int:
        try:
            return os.lseek(self.fd, start, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return max(self.size, start)
            return start


def read_into(fd: int, buffer: memoryview, offset: int) -> None:
    """Fill ``buffer``; what is behind the file's end is zero."""
    done = 0
    while done < len(buffer):
        count = os.preadv(fd, [buffer[done:]], offset + done)
        if not count:
            clear(buffer[done:])
            return
        done += count


def clear(buffer: memoryview) -> None:
    for start in range(0, len(buffer), len(ZERO)):
        piece = buffer[start : start + len(ZERO)]
        piece[:] = ZERO[: len(piece)]


class Qcow2Layer:
    """A qcow2 file over ``below``."""

    def __init__(self, fd: int, below: Layer | None = None, *, name: str = "") -> None:
        self.fd = fd
        self.name = name or f"descriptor {fd}"
        self.below = below
        self.header = self._read_header()
        self.size = self.header.size
        self._l1 = self._table(self.header.l1_offset, self.header.l1_size)
        self._l2: OrderedDict[int, array[int]] = OrderedDict()
        self._lock = threading.Lock()
        bits = self.header.cluster_bits
        self._shift = 62 - (bits - 8)
        self._inflate = inflater(self.header.compression)

    def _read_header(self) -> qcow2.Header:
        try:
            header = qcow2.read_header(self.fd)
            if header.incompatible & (qcow2.EXTENDED_L2 | qcow2.DATA_FILE | qcow2.CORRUPT) or header.encryption:
                raise qcow2.QcowError("it uses features that cannot be read here")
            if header.l1_size * 8 > qcow2.MAX_L1:
                raise qcow2.QcowError("its L1 table is too large")
            return header
        except qcow2.QcowError as error:
            raise DataCorrupt(path=self.name, reason=str(error)) from error

    def _table(self, offset: int, entries: int) -> array[int]:
        data = os.pread(self.fd, entries * 8, offset)
        if len(data) < entries * 8:
            raise DataCorrupt(path=self.name, reason="a table is cut short")
        table = array("Q")
        table.frombytes(data)
        if sys.byteorder == "little":
            table.byteswap()
        return table

    def _entries(self, index: int) -> array[int] | None:
        if index >= len(self._l1):
            return None
        offset = self._l1[index] & _OFFSET
        if not offset:
            return None
        with self._lock:
            if index in self._l2:
                self._l2.move_to_end(index)
                return self._l2[index]
        table = self._table(offset, self.header.l2_entries)
        with self._lock:
            self._l2[index] = table
            if len(self._l2) > _TABLES:
                self._l2.popitem(last=False)
        return table

    def fill(self, buffer: memoryview, start: int) -> bool:
        zeros, position = [], 0
        while position < len(buffer):
            filled, size = self._run(buffer[position:], start + position)
            if not filled:
                zeros.append((position, size))
            position += size
        if sum(size for _, size in zeros) == len(buffer):
            return False
        for position, size in zeros:
            clear(buffer[position : position + size])
        return True

    def next_data(self, start: int) -> int:
        cluster = self.header.cluster_size
        span = cluster * self.header.l2_entries
        zeros = 1 if self.header.version >= 3 else 0
        below = -1
        while start < self.size:
            entries = self._entries(start // span)
            entry = 0 if entries is None else entries[start % span // cluster]
            end = (start // span + 1) * span if entries is None else (start // cluster + 1) * cluster
            if not entry & zeros or entry & _COMPRESSED:
                if entry & (_OFFSET | _COMPRESSED):
                    return start
                if self.below is not None:
                    if below < start:
                        below = self.below.next_data(start) if start < self.below.size else self.size
                    if below < end:
                        return below
            start = end
        return self.size

    def _run(self, buffer: memoryview, start: int) -> tuple[bool, int]:
        """(whether it was filled, its length): the longest piece from ``start`` on that one read can serve."""
        cluster = self.header.cluster_size
        span = cluster * self.header.l2_entries
        number, inside = divmod(start % span, cluster)
        room = min(len(buffer), span - start % span, max(self.size - start, 0) or len(buffer))
        entries = self._entries(start // span)
        if entries is None or start >= self.size:
            return self._through(buffer[:room], start), room
        entry = entries[number]
        if entry & _COMPRESSED:
            size = min(room, cluster - inside)
            buffer[:size] = self._compressed(entry)[inside : inside + size]
            return True, size
        if self.header.version >= 3 and entry & 1:
            return False, min(room, cluster - inside)
        offset = entry & _OFFSET
        size = min(self._together(entries, number, offset, inside + room) - inside, room)
        if not offset:
            return self._through(buffer[:size], start), size
        read_into(self.fd, buffer[:size], offset + inside)
        return True, size

    def _together(self, entries: array[int], number: int, offset: int, enough: int) -> int:
        """Bytes from cluster ``number`` on that follow each other in the file, or are all absent."""
        cluster = self.header.cluster_size
        size = cluster
        while size < enough:
            following = entries[number + size // cluster]
            if following & (_COMPRESSED | 1) or following & _OFFSET != (offset + size if offset else 0):
                break
            size += cluster
        return size

    def _through(self, buffer: memoryview, start: int) -> bool:
        if self.below is None or start >= self.below.size:
            return False
        return self.below.fill(buffer, start)

    def _compressed(self, entry: int) -> bytes:
        offset = entry & ((1 << self._shift) - 1)
        sectors = (entry >> self._shift) & ((1 << (self.header.cluster_bits - 8)) - 1)
        stored = os.pread(self.fd, (sectors + 1) * 512 - (offset & 511), offset)
        try:
            data = self._inflate(stored, self.header.cluster_size)
        except Exception as error:  # each library has its own error class
            raise DataCorrupt(path=self.name, reason=f"a compressed cluster cannot be unpacked: {error}") from error
        if len(data) != self.header.cluster_size:
            raise DataCorrupt(path=self.name, reason="a compressed cluster is cut short")
        return data


def inflater(compression: int) -> Callable[[bytes, int], bytes]:
    """A function (stored, cluster size) -> cluster. qcow2's deflate uses a window of 12 bits."""
    if compression == qcow2.ZSTD:
        import zstandard

        def unzstd(stored: bytes, size: int) -> bytes:
            return zstandard.ZstdDecompressor().decompress(stored, max_output_size=size)

        return unzstd
    try:
        from isal import isal_zlib as library  # twice as fast as zlib
    except ImportError:  # pragma: no cover - a machine without the wheel
        import zlib as library  # type: ignore[no-redef]

    def inflate(stored: bytes, size: int) -> bytes:
        data: bytes = library.decompressobj(-12).decompress(stored, size)
        return data

    return inflate
