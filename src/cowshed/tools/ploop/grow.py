"""Growing an expanded data file in place, which qemu-img cannot. At every step the file is a whole image."""

from __future__ import annotations

import os
import struct
from array import array
from dataclasses import replace

from cowshed.tools import filesystem
from cowshed.tools.ploop.errors import PloopError
from cowshed.tools.ploop.image import HEADER, Header, check, read_header
from cowshed.tools.ploop.write import LARGEST_1
from cowshed.units import MiB

_PIECE = 4 * MiB


def grow(fd: int, size: int) -> None:
    """To ``size`` bytes, durably; nobody else may have the file open.

    Order: clusters that lie where the table needs room move behind all others (one at a time: copy,
    sync, entry), then the table's new part is zeroed, then the header says so, in one write of one
    sector. A process that is killed leaves the old size or the new one.

    :raises PloopError: it is broken, or was not closed, or cannot be as large
    """
    header = read_header(fd)
    if header.in_use:
        raise PloopError("it was not closed properly, and must be repaired first")
    if header.version == 1 and size > LARGEST_1:
        raise PloopError("an image of version 1 cannot become larger than 2 TiB")
    table = check(fd, header)
    entries = max(header.entries, -(-size // header.cluster))
    wanted = replace(header, size=size, entries=entries)
    if wanted.bat_end > header.data_offset:
        wanted = replace(wanted, data_offset=_make_room(fd, header, table, wanted.bat_end))
    filesystem.write_all(fd, bytes(wanted.bat_end - header.bat_end), header.bat_end)
    os.fsync(fd)
    filesystem.write_all(fd, wanted.pack())
    os.fsync(fd)


def _make_room(fd: int, header: Header, table: array[int], needed: int) -> int:
    """Where the data begins when nothing of it lies before ``needed``."""
    start = header.data_offset + -(-(needed - header.data_offset) // header.cluster) * header.cluster
    if header.extension:
        raise PloopError("it has an extension (dirty bitmaps), and no room for a larger table")
    end = max([start, *(entry * header.unit + header.cluster for entry in table)])
    for number, entry in enumerate(table):
        if not entry or entry * header.unit >= start:
            continue
        _copy(fd, entry * header.unit, end, header.cluster)
        os.fsync(fd)
        filesystem.write_all(fd, struct.pack("<I", end // header.unit), HEADER.size + 4 * number)
        os.fsync(fd)
        end += header.cluster
    return start


def _copy(fd: int, source: int, target: int, length: int) -> None:
    """A cluster at the file's end may be cut short; what is missing is zero."""
    for position in range(0, length, _PIECE):
        data = os.pread(fd, min(_PIECE, length - position), source + position)
        filesystem.write_all(fd, data, target + position)
    if os.fstat(fd).st_size < target + length:
        os.ftruncate(fd, target + length)
