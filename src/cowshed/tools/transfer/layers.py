"""Layers of a disk, read by guest offset: raw files and qcow2 files over each other.

Formats and parents are given by the caller; what a qcow2 header says of its parent is not looked
at, since a guest may have written it.
"""

from __future__ import annotations

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

    def read(self, start: int, length: int) -> bytes | None:
        """``length`` bytes from guest offset ``start``; None when all are known to be zero."""


class RawLayer:
    """A raw file; what is behind its end reads as zero."""

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.size = os.fstat(fd).st_size

    def read(self, start: int, length: int) -> bytes | None:
        if start >= self.size or self._is_hole(start, length):
            return None
        data = os.pread(self.fd, length, start)
        return data if len(data) == length else data + bytes(length - len(data))

    def _is_hole(self, start: int, length: int) -> bool:
        try:
            return os.lseek(self.fd, start, os.SEEK_DATA) >= start + length
        except OSError:  # ENXIO: nothing but a hole up to the end
            return True


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

    def read(self, start: int, length: int) -> bytes | None:
        pieces: list[bytes | None] = []
        sizes: list[int] = []
        position, end = start, start + length
        while position < end:
            piece, size = self._run(position, end - position)
            pieces.append(piece)
            sizes.append(size)
            position += size
        if all(piece is None for piece in pieces):
            return None
        if len(pieces) == 1:
            return pieces[0]
        return b"".join(ZERO[:size] if piece is None else piece for piece, size in zip(pieces, sizes, strict=True))

    def _run(self, start: int, length: int) -> tuple[bytes | None, int]:
        """The longest piece from ``start`` on that one read can serve."""
        cluster = self.header.cluster_size
        span = cluster * self.header.l2_entries
        number, inside = divmod(start % span, cluster)
        room = min(length, span - start % span, max(self.size - start, 0) or length)
        entries = self._entries(start // span)
        if entries is None or start >= self.size:
            return self._through(start, room), room
        entry = entries[number]
        if entry & _COMPRESSED:
            size = min(room, cluster - inside)
            return self._compressed(entry)[inside : inside + size], size
        if self.header.version >= 3 and entry & 1:
            return None, min(room, cluster - inside)
        offset = entry & _OFFSET
        size = cluster - inside
        while size < room:
            following = entries[(start % span + size) // cluster]
            if (
                following & _COMPRESSED
                or following & 1
                or (following & _OFFSET) != (offset + inside + size if offset else 0)
            ):
                break
            size += cluster
        size = min(size, room)
        if not offset:
            return self._through(start, size), size
        data = os.pread(self.fd, size, offset + inside)
        return data + bytes(size - len(data)), size

    def _through(self, start: int, length: int) -> bytes | None:
        if self.below is None or start >= self.below.size:
            return None
        return self.below.read(start, length)

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
