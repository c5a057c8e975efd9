"""An expanded ploop data file as a layer."""

from __future__ import annotations

import errno
import os

from cowshed.errors import DataCorrupt
from cowshed.tools import ploop
from cowshed.tools.transfer.layers import clear, read_into


class PloopLayer:
    """The data file ``fd``; every entry of its table was looked at before anything is read."""

    def __init__(self, fd: int, *, name: str = "") -> None:
        self.fd = fd
        try:
            self.header = ploop.read_header(fd)
            self._table = ploop.check(fd, self.header)
        except ploop.PloopError as error:
            raise DataCorrupt(path=name or f"descriptor {fd}", reason=str(error)) from error
        self.size = self.header.size

    def fill(self, buffer: memoryview, start: int) -> bool:
        if start >= self.size:
            return False
        zeros, position = [], 0
        while position < len(buffer):
            offset, length = self._run(start + position, len(buffer) - position)
            if offset is None or self._data_from(offset) >= offset + length:
                zeros.append((position, length))
            else:
                read_into(self.fd, buffer[position : position + length], offset)
            position += length
        if sum(length for _, length in zeros) == len(buffer):
            return False
        for position, length in zeros:
            clear(buffer[position : position + length])
        return True

    def next_data(self, start: int) -> int:
        cluster = self.header.cluster
        for number in range(start // cluster, len(self._table)):
            if not self._table[number]:
                continue
            first = max(start, number * cluster)
            offset = self._table[number] * self.header.unit + first % cluster
            data = self._data_from(offset)
            if data < offset + cluster - first % cluster:
                return first + data - offset
        return self.size

    def _run(self, start: int, most: int) -> tuple[int | None, int]:
        """(place in the file, or None for a hole; length): clusters that follow each other, or are all absent."""
        number, inside = divmod(start, self.header.cluster)
        entry, step = self._entry(number), self.header.cluster // self.header.unit
        length = self.header.cluster - inside
        while length < most:
            number += 1
            if self._entry(number) != (entry and entry + step):
                break
            entry = self._entry(number)
            length += self.header.cluster
        first = self._entry(start // self.header.cluster)
        return (first * self.header.unit + inside if first else None), min(length, most)

    def _entry(self, number: int) -> int:
        return self._table[number] if number < len(self._table) else 0

    def _data_from(self, offset: int) -> int:
        """The first byte of the file from ``offset`` on that is in no hole."""
        try:
            return os.lseek(self.fd, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno != errno.ENXIO:
                return offset
            return max(os.fstat(self.fd).st_size, offset + self.header.cluster)
