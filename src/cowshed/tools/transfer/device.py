"""A block device as the place where content goes."""

from __future__ import annotations

import threading
from typing import Final

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.tools import block
from cowshed.tools.transfer.direct import Writer
from cowshed.tools.transfer.pump import CHUNK
from cowshed.tools.transfer.sinks import BLOCK, Crcs, used

SECTOR: Final = 512


class DeviceSink:
    """Writes to the block device ``fd``; chunks that never come are zeros.

    :param zeroed: the device reads as zeros now (a new thin volume), so zeros need not be written.
        Otherwise every byte is seen to exactly once: data is written, and zeros are left to the
        device's own command (BLKZEROOUT), which :meth:`finish` also uses for what never came
    """

    def __init__(self, fd: int, size: int, *, zeroed: bool, digest: bool = True) -> None:
        self.fd = fd
        self.size = -(-size // SECTOR) * SECTOR
        self.written = 0
        self._zeroed = zeroed
        self._crcs = Crcs(size) if digest else None
        self._came = bytearray(-(-size // CHUNK))
        self._lock = threading.Lock()
        self._writer = Writer(fd)

    def write(self, start: int, data: memoryview) -> None:
        if self._crcs:
            self._crcs.write(start, data)
        if short := -len(data) % SECTOR:  # the end of an image that does not end with a sector
            data = memoryview(data.tobytes() + bytes(short))
        done = written = 0
        for begin, end in used(data, BLOCK):
            self._zero(start + done, start + begin)
            self._writer.write(data[begin:end], start + begin, aligned=True)
            written += end - begin
            done = end
        self._zero(start + done, start + len(data))
        with self._lock:
            self.written += written
            self._came[start // CHUNK] = 1

    def _zero(self, start: int, end: int) -> None:
        if not self._zeroed and end > start:
            block.zero(self.fd, start, end)

    def finish(self, *, end: int, progress: Progress = SILENT) -> None:
        """Zeros in every chunk that did not come, and from ``size`` on to the ``end`` of the device."""
        if self._zeroed:
            return
        position = 0
        while (first := self._came.find(0, position)) >= 0:
            position = self._came.find(1, first)
            if position < 0:
                position = len(self._came)
            block.zero(self.fd, first * CHUNK, min(position * CHUNK, self.size), progress=progress)
        block.zero(self.fd, self.size, end, progress=progress)

    def close(self) -> None:
        self._writer.close()

    def digest(self) -> str:
        return self._crcs.digest() if self._crcs else ""
