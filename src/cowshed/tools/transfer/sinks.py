"""Where chunks go: a sparse raw file, or a new qcow2 file (plain or compressed)."""

from __future__ import annotations

import os
import struct
import sys
import threading
from array import array
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from cowshed.contract.storage import OpenSink
from cowshed.tools import filesystem, sparse
from cowshed.tools.qcow2.header import EXT_END, MAGIC
from cowshed.tools.transfer.direct import Writer
from cowshed.tools.transfer.layers import ZERO
from cowshed.tools.transfer.pump import CHUNK

AHEAD = 16 << 20  # bytes
COPIED = 1 << 63  # the flag of a cluster with one reference
BLOCK = 64 << 10  # zeros are found in pieces of this size
SECTOR = 512


def into_file(fd: int, place: Path) -> OpenSink:
    """Opens the empty file ``fd``, which lies in folder ``place``, as a sink."""

    def open_sink(size: int, data: int) -> RawSink:
        filesystem.check_space(place, data)
        return RawSink(fd, size)

    return open_sink


class RawSink:
    """A sparse raw file: zero blocks are never written.

    Keeps a CRC-32 of every chunk, from which :meth:`digest` makes one value for the whole disk:
    it costs a few percent of a SHA-256 and finds what storage does to a file.
    """

    def __init__(self, fd: int, size: int, *, digest: bool = True) -> None:
        self.fd = fd
        self.size = size
        self.written = 0
        self._crcs = Crcs(size) if digest else None
        self._lock = threading.Lock()
        self._writer = Writer(fd)
        os.ftruncate(fd, size)

    def write(self, start: int, data: memoryview) -> None:
        if self._crcs:
            self._crcs.write(start, data)
        written = 0
        for begin, end in used(data, BLOCK):
            self._writer.write(data[begin:end], start + begin, aligned=True)
            written += end - begin
        with self._lock:
            self.written += written

    def close(self) -> None:
        self._writer.close()

    def digest(self) -> str:
        return self._crcs.digest() if self._crcs else ""


def used(data: memoryview, block: int) -> Iterator[tuple[int, int]]:
    """(begin, end) of the runs of blocks that are not all zero."""
    begin = None
    for position in range(0, len(data), block):
        if _is_zero(data[position : position + block]):
            if begin is not None:
                yield begin, position
                begin = None
        elif begin is None:
            begin = position
    if begin is not None:
        yield begin, len(data)


def _is_zero(data: memoryview) -> bool:
    """Data shows itself in its first bytes nearly always; only the others are looked at (and copied) whole."""
    return not any(data[:16]) and ZERO.startswith(data.tobytes())


class Crcs:
    """The CRC-32 of each chunk of a disk; a sink of its own for who only wants to know them."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._crcs = array("I", [crc32(ZERO[:CHUNK])]) * -(-size // CHUNK)
        if size % CHUNK:
            self._crcs[-1] = crc32(ZERO[: size % CHUNK])

    def write(self, start: int, data: memoryview) -> None:
        self._crcs[start // CHUNK] = crc32(data)

    def digest(self) -> str:
        """``crc32-2m:<hex>``: SHA-256 over the size and the CRC of each 2 MiB chunk, little-endian."""
        import hashlib

        crcs = array("I", self._crcs)
        if sys.byteorder == "big":
            crcs.byteswap()
        return "crc32-2m:" + hashlib.sha256(struct.pack("<Q", self.size) + crcs.tobytes()).hexdigest()


def crc32(data: bytes | memoryview) -> int:
    try:
        from isal.isal_zlib import crc32 as library
    except ImportError:  # pragma: no cover
        from zlib import crc32 as library
    return library(data)


class Qcow2Sink:
    """A new standalone qcow2 (version 3): data appended as it comes, tables written at the end.

    Its size is in whole sectors: QEMU does not show what lies behind the last one.
    """

    def __init__(self, fd: int, size: int, *, compress: bool = False, cluster_bits: int = 16) -> None:
        self.fd = fd
        self.size = -(-size // SECTOR) * SECTOR
        self.compress = compress
        self.bits = cluster_bits
        self.cluster = 1 << cluster_bits
        entries = self.cluster // 8
        self._l1_entries = max(1, -(-size // (self.cluster * entries)))
        self._l2: dict[int, array[int]] = {}
        self._refcounts = array("H")  # of each cluster of the file
        self._end = 0
        self._ready = 0  # bytes of the file that have blocks already
        self._packed = 0  # where the next compressed bytes go inside the last shared cluster
        self._lock = threading.Lock()
        self._writer = Writer(fd)
        self._reserve(1)  # the header's cluster

    def write(self, start: int, data: memoryview) -> None:
        for begin, end in used(data, self.cluster):
            if self.compress:
                self._write_compressed(start + begin, data[begin:end])
            else:
                self._write_plain(start + begin, data[begin:end])

    def _write_plain(self, start: int, data: memoryview) -> None:
        clusters = -(-len(data) // self.cluster)
        offset = self._reserve(clusters)
        with self._lock:
            for position in range(0, clusters * self.cluster, self.cluster):
                self._map(start + position, offset + position | COPIED)
        self._writer.write(data, offset, aligned=True)
        if rest := -len(data) % self.cluster:
            self._writer.write(ZERO[:rest], offset + len(data))

    def _write_compressed(self, start: int, data: memoryview) -> None:
        """Deflate outside the lock; keep plain what does not become smaller."""
        packed: list[tuple[int, bytes]] = []
        for position in range(0, len(data), self.cluster):
            piece = data[position : position + self.cluster]
            whole = piece if len(piece) == self.cluster else piece.tobytes() + ZERO[: self.cluster - len(piece)]
            small = deflate(whole)
            if len(small) < self.cluster - 512:
                packed.append((start + position, small))
            else:
                self._write_plain(start + position, piece)
        if packed:
            with self._lock:
                offsets = [self._pack(position, len(small)) for position, small in packed]
            self._append(b"".join(small for _, small in packed), offsets[0])

    def _reserve(self, clusters: int) -> int:
        with self._lock:
            offset = self._end
            self._grow_to(offset + clusters * self.cluster, 1)
            self._packed = 0
            return offset

    def _grow_to(self, end: int, count: int) -> None:
        """New clusters with this reference count.

        They have blocks before they are written to: direct writes behind the end of a file wait
        for each other.
        """
        self._refcounts.extend([count] * ((end - self._end) // self.cluster))
        self._end = end
        if end > self._ready:
            self._ready = end + AHEAD
            os.ftruncate(self.fd, self._ready)
            with suppress(OSError):  # the file system cannot, or has not so much: writing will tell
                sparse.reserve(self.fd, self._ready)

    def _pack(self, start: int, length: int) -> int:
        """Room for compressed bytes, back to back with the ones before where those are the last. Under the lock."""
        offset = self._packed or self._end
        end = offset + length
        shift = 62 - (self.bits - 8)
        sectors = (end - 1) // 512 - offset // 512
        self._map(start, 1 << 62 | sectors << shift | offset)
        self._grow_to(-(-end // self.cluster) * self.cluster, 0)
        for number in range(offset // self.cluster, (end - 1) // self.cluster + 1):
            self._refcounts[number] += 1
        self._packed = end if end < self._end else 0
        return offset

    def _map(self, start: int, entry: int) -> None:
        """Under the lock."""
        index, number = divmod(start // self.cluster, self.cluster // 8)
        if index not in self._l2:
            self._l2[index] = array("Q", bytes(self.cluster))
        self._l2[index][number] = entry

    def _append(self, data: bytes, offset: int) -> None:
        self._writer.write(data, offset)

    def close(self) -> None:
        self._writer.close()

    def finish(self) -> None:
        """Write L2 and L1 tables, refcounts and last the header."""
        l1 = array("Q", bytes(self._l1_entries * 8))
        for index, table in sorted(self._l2.items()):
            offset = self._reserve(1)
            l1[index] = offset | COPIED
            self._append(big_endian(table), offset)
        l1_offset = self._reserve(-(-len(l1) * 8 // self.cluster))
        self._append(big_endian(l1), l1_offset)
        table_offset, table_clusters = self._write_refcounts()
        os.ftruncate(self.fd, self._end)
        fixed = struct.pack(
            ">4sIQIIQIIQQIIQ",
            MAGIC, 3, 0, 0, self.bits, self.size, 0, len(l1), l1_offset, table_offset, table_clusters, 0, 0,
        )  # fmt: skip
        header = fixed + struct.pack(">QQQII", 0, 0, 0, 4, 112) + bytes(8) + struct.pack(">II", EXT_END, 0)
        os.pwrite(self.fd, header, 0)

    def _write_refcounts(self) -> tuple[int, int]:
        per_block = self.cluster // 2
        blocks = tables = 1
        while True:  # the blocks count themselves too
            total = self._end // self.cluster + blocks + tables
            if blocks * per_block >= total and tables * self.cluster // 8 >= blocks:
                break
            blocks = max(blocks, -(-total // per_block))
            tables = max(tables, -(-blocks * 8 // self.cluster))
        first = self._reserve(blocks + tables)
        counts = array("H", self._refcounts)
        counts.frombytes(bytes(blocks * self.cluster - len(counts) * 2))
        self._append(big_endian(counts), first)
        table = array("Q", bytes(tables * self.cluster))
        for number in range(blocks):
            table[number] = first + number * self.cluster
        self._append(big_endian(table), first + blocks * self.cluster)
        return first + blocks * self.cluster, tables


def big_endian(table: array[int]) -> bytes:
    copy = array(table.typecode, table)
    if sys.byteorder == "little":
        copy.byteswap()
    return copy.tobytes()


def deflate(data: bytes | memoryview) -> bytes:
    """Raw deflate with the 12-bit window that QEMU's reader uses."""
    try:
        from isal import igzip_lib
    except ImportError:  # pragma: no cover
        import zlib

        packer = zlib.compressobj(1, zlib.DEFLATED, -12)
        return packer.compress(data) + packer.flush()
    return igzip_lib.compress(data, 1, flag=igzip_lib.COMP_DEFLATE, hist_bits=12)
