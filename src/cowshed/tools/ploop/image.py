"""The expanded data file: a header, the block allocation table (BAT), clusters. Every number is bounded.

Version 1 (``WithoutFreeSpace``) counts the places of clusters in sectors, version 2
(``WithouFreSpacExt``) in clusters. The tools make and take version 1 only; it ends at 2 TiB.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from dataclasses import dataclass
from typing import Final

from cowshed.tools.ploop.descriptor import SECTOR, geometry
from cowshed.tools.ploop.errors import PloopError
from cowshed.units import MiB

CLUSTER: Final = MiB
VERSION_1, VERSION_2 = b"WithoutFreeSpace", b"WithouFreSpacExt"
HEADER: Final = struct.Struct("<16sIIIIIQIIIQ")  # 64 bytes
IN_USE: Final = 0x746F6E59
_CLOSED: Final = (0, 0x312E3276)
_MOST: Final = 16 << 20  # entries: 16 TiB in clusters of 1 MiB
_LARGEST_CLUSTER: Final = 64 * MiB


@dataclass(frozen=True, slots=True)
class Header:
    """``size``, ``cluster`` and ``data_offset`` in bytes; ``entries`` of the BAT."""

    version: int
    size: int
    cluster: int
    entries: int
    data_offset: int
    in_use: bool = False
    extension: int = 0

    @property
    def unit(self) -> int:
        """Bytes that 1 in the BAT means."""
        return SECTOR if self.version == 1 else self.cluster

    @property
    def bat_end(self) -> int:
        return HEADER.size + 4 * self.entries

    def pack(self) -> bytes:
        sectors = self.size // SECTOR
        cylinders, heads, _ = geometry(sectors)
        return HEADER.pack(
            VERSION_1 if self.version == 1 else VERSION_2,
            2,
            heads,
            min(cylinders, 0xFFFFFFFF),
            self.cluster // SECTOR,
            self.entries,
            sectors,
            IN_USE if self.in_use else 0,
            self.data_offset // SECTOR,
            0,
            self.extension,
        )


def read_header(fd: int) -> Header:
    """:raises PloopError: it is malformed"""
    data = os.pread(fd, HEADER.size, 0)
    if len(data) < HEADER.size or data[:16] not in (VERSION_1, VERSION_2):
        raise PloopError("it has no ploop header")
    magic, version, _, _, tracks, entries, sectors, mark, data_offset, _, extension = HEADER.unpack(data)
    first = magic == VERSION_1
    if version != 2:
        raise PloopError(f"its format version is {version}, not 2")
    if not 0 < tracks * SECTOR <= _LARGEST_CLUSTER:
        raise PloopError(f"its cluster size of {tracks} sectors is out of range")
    if entries > _MOST:
        raise PloopError(f"its table of {entries} entries is too large")
    if first:
        sectors &= 0xFFFFFFFF
    if not 0 < sectors <= entries * tracks:
        raise PloopError(f"its size of {sectors} sectors does not fit its table of {entries} entries")
    if mark != IN_USE and mark not in _CLOSED:
        raise PloopError(f"its in-use mark is {mark:#x}")
    header = Header(
        1 if first else 2, sectors * SECTOR, tracks * SECTOR, entries, data_offset * SECTOR, mark == IN_USE, extension
    )
    return _with_data_offset(header)


def _with_data_offset(header: Header) -> Header:
    """Old images say 0: the data begins in the first sector behind the table."""
    if header.data_offset == 0 and header.version == 1:
        start = -(-header.bat_end // SECTOR) * SECTOR
        return Header(1, header.size, header.cluster, header.entries, start, header.in_use, header.extension)
    if header.data_offset < header.bat_end or (header.version == 2 and header.data_offset % header.cluster):
        raise PloopError("its data begins inside its table")
    return header


def read_bat(fd: int, header: Header) -> array[int]:
    """The entries as they stand in the file (0: a hole)."""
    data = os.pread(fd, 4 * header.entries, HEADER.size)
    if len(data) < 4 * header.entries:
        raise PloopError("its table is cut short")
    table = array("I")
    table.frombytes(data)
    if sys.byteorder == "big":
        table.byteswap()
    return table


def check(fd: int, header: Header | None = None) -> array[int]:
    """The table, after every entry was looked at.

    :raises PloopError: a cluster lies outside the file (is it cut short?), not in its place, or is used twice
    """
    header = header or read_header(fd)
    table, end = read_bat(fd, header), os.fstat(fd).st_size
    used = [entry for entry in table if entry]
    if len(set(used)) != len(used):
        raise PloopError("two parts of it share a cluster")
    for entry in used:
        offset = entry * header.unit
        if offset < header.data_offset or (offset - header.data_offset) % header.cluster:
            raise PloopError("a cluster lies inside the table, or is not aligned")
        if offset >= end:
            raise PloopError(f"a cluster lies at {offset}, behind the end of the file at {end} (is it cut short?)")
    return table
