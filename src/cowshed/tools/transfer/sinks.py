"""Where chunks go: a sparse raw file, or a new qcow2 file (plain or compressed)."""

from __future__ import annotations

import os
import struct
import sys
import threading
from array import array

from cowshed.tools.qcow2.header import EXT_END, MAGIC
from cowshed.tools.transfer.direct import Writer
from cowshed.tools.transfer.layers import ZERO
from cowshed.tools.transfer.pump import CHUNK

BLOCK = 64 << 10  # zeros are found in pieces of this size
_CRC_OF_ZERO: dict[int, int] = {}


class RawSink:
    """A sparse raw file: zero blocks are never written.

    Keeps a CRC-32 of every chunk, from which :meth:`digest` makes one value for the whole disk:
    it costs a few percent of a SHA-256 and finds what storage does to a file.
    """

    def __init__(self, fd: int, size: int, *, digest: bool = True) -> None:
        self.fd = fd
        self.size = size
        self.written = 0
        self._keeps_crcs = digest
        self._crcs: dict[int, int] = {}
        self._writer = Writer(fd)
        os.ftruncate(fd, size)

    def write(self, start: int, data: bytes) -> None:
        if self._keeps_crcs:
            self._crcs[start] = crc32(data)
        view = memoryview(data)
        begin = None
        for block in range(0, len(data), BLOCK):
            zero = _is_zero(data, block)
            if zero and begin is not None:
                self._put(view[begin:block], start + begin)
                begin = None
            elif not zero and begin is None:
                begin = block
        if begin is not None:
            self._put(view[begin:], start + begin)

    def _put(self, data: memoryview, offset: int) -> None:
        self._writer.write(data, offset)
        self.written += len(data)

    def close(self) -> None:
        self._writer.close()

    def digest(self) -> str:
        return combine(self._crcs, self.size)


def _is_zero(data: bytes, block: int) -> bool:
    length = min(BLOCK, len(data) - block)
    return data.startswith(ZERO[:BLOCK] if length == BLOCK else ZERO[:length], block)


def crc32(data: bytes) -> int:
    try:
        from isal.isal_zlib import crc32 as library
    except ImportError:  # pragma: no cover
        from zlib import crc32 as library
    return library(data)


def combine(crcs: dict[int, int], size: int) -> str:
    """``crc32-2m:<hex>``: SHA-256 over the little-endian CRC-32 of each 2 MiB chunk of the disk."""
    import hashlib

    hasher = hashlib.sha256(struct.pack("<Q", size))
    whole = _crc_of_zeros(CHUNK)
    for start in range(0, size, CHUNK):
        crc = crcs.get(start)
        if crc is None:
            crc = whole if size - start >= CHUNK else _crc_of_zeros(size - start)
        hasher.update(struct.pack("<I", crc))
    return "crc32-2m:" + hasher.hexdigest()


def _crc_of_zeros(length: int) -> int:
    if length not in _CRC_OF_ZERO:
        _CRC_OF_ZERO[length] = crc32(ZERO[:length])
    return _CRC_OF_ZERO[length]


class Qcow2Sink:
    """A new standalone qcow2 (version 3): data appended as it comes, tables written at the end."""

    def __init__(self, fd: int, size: int, *, compress: bool = False, cluster_bits: int = 16) -> None:
        self.fd = fd
        self.size = size
        self.compress = compress
        self.bits = cluster_bits
        self.cluster = 1 << cluster_bits
        entries = self.cluster // 8
        self._l1_entries = max(1, -(-size // (self.cluster * entries)))
        self._l2: dict[int, array[int]] = {}
        self._refcounts: dict[int, int] = {}
        self._end = self.cluster  # the header's cluster
        self._packed = 0  # where the next compressed bytes go inside the last shared cluster
        self._lock = threading.Lock()
        self._writer = Writer(fd)

    def write(self, start: int, data: bytes) -> None:
        clusters = []
        for position in range(0, len(data), self.cluster):
            piece = data[position : position + self.cluster]
            if not ZERO.startswith(piece):
                clusters.append((start + position, piece + bytes(self.cluster - len(piece))))
        if self.compress:
            self._write_compressed(clusters)
        else:
            self._write_plain(clusters)

    def _write_plain(self, clusters: list[tuple[int, bytes]]) -> None:
        offset = self._reserve(len(clusters))
        for number, (start, _) in enumerate(clusters):
            self._map(start, offset + number * self.cluster | 1 << 63)
        self._append(b"".join(data for _, data in clusters), offset)

    def _write_compressed(self, clusters: list[tuple[int, bytes]]) -> None:
        """Deflate outside the lock; keep plain what does not become smaller."""
        packed = [(start, deflate(data), data) for start, data in clusters]
        plain = [(start, data) for start, small, data in packed if len(small) >= self.cluster - 512]
        if plain:
            self._write_plain(plain)
        for start, small, _ in packed:
            if len(small) < self.cluster - 512:
                self._append(small, self._pack(start, len(small)))

    def _reserve(self, clusters: int) -> int:
        with self._lock:
            offset = self._end
            self._end += clusters * self.cluster
            for number in range(offset // self.cluster, self._end // self.cluster):
                self._refcounts[number] = 1
            self._packed = 0
            return offset

    def _pack(self, start: int, length: int) -> int:
        """Room for compressed bytes, back to back with the ones before where those are the last."""
        with self._lock:
            offset = self._packed or self._end
            end = offset + length
            shift = 62 - (self.bits - 8)
            sectors = (end - 1) // 512 - offset // 512
            self._map_locked(start, 1 << 62 | sectors << shift | offset)
            for number in range(offset // self.cluster, (end - 1) // self.cluster + 1):
                self._refcounts[number] = self._refcounts.get(number, 0) + 1
            self._end = -(-end // self.cluster) * self.cluster
            self._packed = end if end < self._end else 0
            return offset

    def _map(self, start: int, entry: int) -> None:
        with self._lock:
            self._map_locked(start, entry)

    def _map_locked(self, start: int, entry: int) -> None:
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
            l1[index] = self._reserve(1) | 1 << 63
            self._append(_big_endian(table), l1[index] & ~(1 << 63))
        l1_offset = self._reserve(-(-len(l1) * 8 // self.cluster))
        self._append(_big_endian(l1), l1_offset)
        table_offset, table_clusters = self._write_refcounts()
        os.ftruncate(self.fd, self._end)
        fixed = struct.pack(
            ">4sIQIIQIIQQIIQ",
            MAGIC, 3, 0, 0, self.bits, self.size, 0, len(l1), l1_offset, table_offset, table_clusters, 0, 0,
        )  # fmt: skip
        header = fixed + struct.pack(">QQQII", 0, 0, 0, 4, 112) + bytes(8) + struct.pack(">II", EXT_END, 0)
        os.pwrite(self.fd, header, 0)

    def _write_refcounts(self) -> tuple[int, int]:
        self._refcounts[0] = 1
        per_block = self.cluster // 2
        blocks = tables = 1
        while True:  # the blocks count themselves too
            total = self._end // self.cluster + blocks + tables
            if blocks * per_block >= total and tables * self.cluster // 8 >= blocks:
                break
            blocks = max(blocks, -(-total // per_block))
            tables = max(tables, -(-blocks * 8 // self.cluster))
        first = self._reserve(blocks + tables)
        counts = array("H", bytes(blocks * self.cluster))
        for number, count in self._refcounts.items():
            counts[number] = count
        self._append(_big_endian(counts), first)
        table = array("Q", bytes(tables * self.cluster))
        for number in range(blocks):
            table[number] = first + number * self.cluster
        self._append(_big_endian(table), first + blocks * self.cluster)
        return first + blocks * self.cluster, tables


def _big_endian(table: array[int]) -> bytes:
    copy = array(table.typecode, table)
    if sys.byteorder == "little":
        copy.byteswap()
    return copy.tobytes()


def deflate(data: bytes) -> bytes:
    """Raw deflate with the 12-bit window that QEMU's reader uses."""
    try:
        from isal import igzip_lib
    except ImportError:  # pragma: no cover
        import zlib

        packer = zlib.compressobj(1, zlib.DEFLATED, -12)
        return packer.compress(data) + packer.flush()
    return igzip_lib.compress(data, 1, flag=igzip_lib.COMP_DEFLATE, hist_bits=12)
