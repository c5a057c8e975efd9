"""New expanded data files: blank, or filled cluster by cluster."""

from __future__ import annotations

import os
import sys
import threading
from array import array
from typing import Final

from cowshed.tools import filesystem, reflink
from cowshed.tools.ploop.image import CLUSTER, HEADER, Header, check, read_header
from cowshed.tools.transfer.direct import Writer
from cowshed.tools.transfer.sinks import used
from cowshed.units import TiB

LARGEST_1: Final = 2 * TiB - 1024 * CLUSTER  # bytes of a disk whose clusters all have a place below 2 TiB


def new_header(size: int) -> Header:
    """For a disk of ``size`` bytes; data begins on a whole cluster, and the table has room to grow up to there."""
    entries = -(-size // CLUSTER)
    start = -(-(HEADER.size + 4 * entries) // CLUSTER) * CLUSTER
    return Header(1 if size <= LARGEST_1 else 2, size, CLUSTER, entries, start)


def create_blank(fd: int, size: int) -> Header:
    """Write an image of ``size`` zero bytes to the empty file ``fd``.

    The whole head is written: the tools want neither holes nor blocks that never were (check.c).
    """
    header = new_header(size)
    filesystem.write_all(fd, header.pack().ljust(header.data_offset, b"\0"))
    return header


def clone_raw(source: int, fd: int, size: int) -> bool:
    """Write an image of ``size`` bytes to the empty file ``fd`` that shares all blocks of the raw file ``source``.

    What is a hole there is one here: ``ploop check`` wants ``-S`` (repair sparse) for such an image,
    QEMU does not mind.

    :return: False where the file system cannot; ``fd`` is empty again
    """
    header = new_header(size)
    content = os.fstat(source).st_size
    if not reflink.clone_range(source, fd, header.data_offset):
        os.ftruncate(fd, 0)
        return False
    filesystem.write_all(fd, header.pack())
    map_whole(fd, header, content)
    return True


def map_whole(fd: int, header: Header, content: int) -> None:
    """Let the disk's first ``content`` bytes lie one after the other behind the table, as in a raw file."""
    clusters, unit = -(-content // header.cluster), header.cluster // header.unit
    first = header.data_offset // header.unit
    table = array("I", range(first, first + clusters * unit, unit))
    filesystem.write_all(fd, little_endian(table), HEADER.size)
    end = header.data_offset + clusters * header.cluster
    if os.fstat(fd).st_size < end:
        os.ftruncate(fd, end)


def map_rest(fd: int) -> int:
    """Give every cluster that has none a place behind the others; returns the bytes of the file then."""
    header = read_header(fd)
    table, unit = check(fd, header), header.cluster // header.unit
    free = max([header.data_offset // header.unit, *(entry + unit for entry in table if entry)])
    for number, entry in enumerate(table):
        if not entry:
            table[number] = free
            free += unit
    os.ftruncate(fd, free * header.unit)
    filesystem.write_all(fd, little_endian(table), HEADER.size)
    return free * header.unit


def little_endian(table: array[int]) -> bytes:
    if sys.byteorder == "big":
        table = array("I", table)
        table.byteswap()
    return table.tobytes()


class Mapped:
    """A sink of chunks: clusters that are not all zero get a place, in the order they come."""

    def __init__(self, fd: int, size: int) -> None:
        self.fd = fd
        self.size = size
        self.header = create_blank(fd, size)
        self._table = array("I", bytes(4 * self.header.entries))
        self._end = self.header.data_offset
        self._lock = threading.Lock()
        self._writer = Writer(fd)

    def write(self, start: int, data: memoryview) -> None:
        """``start`` lies on a cluster's beginning."""
        cluster = self.header.cluster
        for begin, end in used(data, cluster):
            count = -(-(end - begin) // cluster)
            with self._lock:
                offset = self._end
                self._end += count * cluster
                for number in range(count):
                    place = (offset + number * cluster) // self.header.unit
                    self._table[(start + begin) // cluster + number] = place
            self._writer.write(data[begin:end], offset, aligned=True)

    def finish(self) -> None:
        """Write the table; the file ends with its last cluster."""
        os.ftruncate(self.fd, self._end)
        filesystem.write_all(self.fd, little_endian(self._table), HEADER.size)

    def close(self) -> None:
        self._writer.close()
