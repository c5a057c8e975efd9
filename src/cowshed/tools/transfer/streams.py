"""The content of a disk as a stream of known length, without a file in between.

A qcow2 file can be sent from front to back because everything in it follows from which clusters hold data: the header,
the refcounts and the tables come first, then the clusters in the order the guest sees them.
"""

from __future__ import annotations

import io
import mmap
import struct
from array import array
from collections.abc import Iterator, Sequence
from typing import Any

from cowshed.tools.qcow2.header import EXT_END, MAGIC
from cowshed.tools.transfer.layers import ZERO, Layer
from cowshed.tools.transfer.sinks import COPIED, big_endian

_CLUSTER_BITS = 16
_CLUSTER = 1 << _CLUSTER_BITS
_ENTRIES = _CLUSTER // 8  # of an L2 table
_COUNTS = _CLUSTER // 2  # of a refcount block
_PIECE = 1 << 20


class ContentStream(io.RawIOBase):
    """Read from front to back, as often as wanted. ``length`` in bytes."""

    def __init__(self, layer: Layer, length: int) -> None:
        super().__init__()
        self.length = length
        self._layer = layer
        self._buffer = memoryview(mmap.mmap(-1, _PIECE))
        self._restart()

    def _restart(self) -> None:
        self._position = 0
        self._waiting = memoryview(b"")
        self._pieces = self._made()

    def _made(self) -> Iterator[bytes]:
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """The beginning and the end cost nothing; what lies between is read."""
        target = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.length}[whence] + offset
        if not 0 <= target <= self.length:
            raise OSError(f"{target} is not inside the stream")
        if target < self._position:
            self._restart()
        if target == self.length:
            self._position, self._waiting, self._pieces = self.length, memoryview(b""), iter(())
        while self._position < target:
            self.read(min(_PIECE, target - self._position))
        return self._position

    def read(self, size: int | None = -1) -> bytes:
        if size is None or size < 0:
            return self.readall()
        pieces = []
        while size:
            if not self._waiting:
                self._waiting = memoryview(next(self._pieces, b""))
                if not self._waiting:
                    break
            piece = self._waiting[:size]
            self._waiting = self._waiting[len(piece) :]
            size -= len(piece)
            pieces.append(piece)
        data = b"".join(pieces)
        self._position += len(data)
        return data

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self.read(_PIECE), b""))

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _content(self, start: int, length: int) -> bytes:
        piece = self._buffer[:length]
        return bytes(piece) if self._layer.fill(piece, start) else ZERO[:length]


class RawStream(ContentStream):
    """All bytes the guest sees, zeros too."""

    def __init__(self, layer: Layer) -> None:
        super().__init__(layer, layer.size)

    def _made(self) -> Iterator[bytes]:
        for start in range(0, self._layer.size, _PIECE):
            yield self._content(start, min(_PIECE, self._layer.size - start))


class Qcow2Stream(ContentStream):
    """A standalone qcow2 (version 3, clusters of 64 KiB) with the clusters that may hold data."""

    def __init__(self, layer: Layer) -> None:
        self._clusters = _with_data(layer)
        self._tables = sorted({number // _ENTRIES for number in self._clusters})
        self._l1_entries = max(1, -(-layer.size // (_CLUSTER * _ENTRIES)))
        self._l1_clusters = -(-self._l1_entries * 8 // _CLUSTER)
        others = 1 + self._l1_clusters + len(self._tables) + len(self._clusters)
        self._blocks, self._table_clusters = _refcount_layout(others)
        self._total = others + self._blocks + self._table_clusters
        super().__init__(layer, self._total * _CLUSTER)

    # Where what begins, in clusters of the file: header, refcount table, refcount blocks, L1, L2 tables, data.

    @property
    def _first_l1(self) -> int:
        return 1 + self._table_clusters + self._blocks

    @property
    def _first_l2(self) -> int:
        return self._first_l1 + self._l1_clusters

    @property
    def _first_data(self) -> int:
        return self._first_l2 + len(self._tables)

    def _made(self) -> Iterator[bytes]:
        yield _padded(self._header())
        blocks = array("Q", ((1 + self._table_clusters + number) * _CLUSTER for number in range(self._blocks)))
        yield _padded(big_endian(blocks), self._table_clusters)
        for number in range(self._blocks):
            used = min(_COUNTS, max(0, self._total - number * _COUNTS))
            yield _padded(big_endian(array("H", [1]) * used))
        l1 = array("Q", bytes(self._l1_entries * 8))
        for place, index in enumerate(self._tables):
            l1[index] = (self._first_l2 + place) * _CLUSTER | COPIED
        yield _padded(big_endian(l1), self._l1_clusters)
        yield from self._l2_tables()
        yield from self._data()

    def _header(self) -> bytes:
        fixed = struct.pack(
            ">4sIQIIQIIQQIIQ",
            MAGIC, 3, 0, 0, _CLUSTER_BITS, self._layer.size, 0, self._l1_entries, self._first_l1 * _CLUSTER,
            _CLUSTER, self._table_clusters, 0, 0,
        )  # fmt: skip
        return fixed + struct.pack(">QQQII", 0, 0, 0, 4, 112) + bytes(8) + struct.pack(">II", EXT_END, 0)

    def _l2_tables(self) -> Iterator[bytes]:
        place = 0
        for index in self._tables:
            table = array("Q", bytes(_CLUSTER))
            while place < len(self._clusters) and self._clusters[place] // _ENTRIES == index:
                table[self._clusters[place] % _ENTRIES] = (self._first_data + place) * _CLUSTER | COPIED
                place += 1
            yield big_endian(table)

    def _data(self) -> Iterator[bytes]:
        for first, count in _runs(self._clusters):
            start, end = first * _CLUSTER, (first + count) * _CLUSTER
            inside = min(end, self._layer.size)
            yield self._content(start, inside - start) + ZERO[: end - inside]


def _with_data(layer: Layer) -> Sequence[int]:
    """Numbers of the clusters that may hold data, in order."""
    found = array("Q")
    position = 0
    while (data := layer.next_data(position)) < layer.size:
        found.append(data // _CLUSTER)
        position = (data // _CLUSTER + 1) * _CLUSTER
    return found


def _runs(clusters: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, how many) of clusters that follow each other, as many at once as fit into a piece."""
    first, count = -1, 0
    for number in clusters:
        if count and number == first + count and count < _PIECE // _CLUSTER:
            count += 1
            continue
        if count:
            yield first, count
        first, count = number, 1
    if count:
        yield first, count


def _refcount_layout(others: int) -> tuple[int, int]:
    """(refcount blocks, clusters of their table) that count ``others`` clusters and themselves."""
    blocks = table = 1
    while True:
        total = others + blocks + table
        if blocks * _COUNTS >= total and table * _ENTRIES >= blocks:
            return blocks, table
        blocks = max(blocks, -(-total // _COUNTS))
        table = max(table, -(-blocks // _ENTRIES))


def _padded(data: bytes, clusters: int = 1) -> bytes:
    return data + bytes(clusters * _CLUSTER - len(data))
