"""The content of images: a sink that keeps many writes in flight, and a layer that knows the holes."""

from __future__ import annotations

import bisect
import threading
from typing import Any

from cowshed.tools.rbd import errors
from cowshed.tools.transfer.sinks import BLOCK, Crcs, used

_IN_FLIGHT = 32 << 20  # bytes
_PIECE = 2 << 20


class RbdSink:
    """A blank image that is being filled; zeros are never written.

    ``image`` is the bindings' open image, which must stay open until :meth:`close`.
    """

    def __init__(self, image: Any, size: int, name: str, *, seconds: float = 60.0) -> None:
        self.size = size
        self.written = 0
        self._image = image
        self._name = name
        self._seconds = seconds
        self._crcs = Crcs(size)
        self._slots = threading.Semaphore(_IN_FLIGHT // _PIECE)
        self._lock = threading.Condition()
        self._flying = 0
        self._failed = 0  # the first error number

    def write(self, start: int, data: memoryview) -> None:
        """:raises NoSpace: :raises CowshedError: an earlier write has failed"""
        self._crcs.write(start, data)
        for begin, end in used(data, BLOCK):
            for position in range(begin, end, _PIECE):
                # The buffer is used again before librbd has sent it, so each write has its own copy.
                self._send(start + position, bytes(data[position : min(end, position + _PIECE)]))

    def _send(self, offset: int, data: bytes) -> None:
        self._slots.acquire()
        with self._lock:
            self._flying += 1

        def done(completion: Any, kept: bytes = data) -> None:
            self._done(completion.get_return_value(), len(kept))

        try:
            self._raise_failed()
            self._image.aio_write(data, offset, done)
        except BaseException:
            self._done(0, 0)
            raise

    def _done(self, result: int, length: int) -> None:
        with self._lock:
            self._flying -= 1
            if result < 0:
                self._failed = self._failed or -result
            else:
                self.written += length
            self._lock.notify_all()
        self._slots.release()

    def _raise_failed(self) -> None:
        if self._failed:
            _, rbd = errors.bindings()
            error = rbd.OSError("error writing", errno=self._failed)
            raise errors.translated(error, "write", "image", self._name, self._seconds) from error

    def close(self) -> None:
        """Nothing is in flight any more. Ask :meth:`finish` whether all of it arrived."""
        with self._lock:
            self._lock.wait_for(lambda: self._flying == 0)

    def finish(self) -> None:
        """Everything has arrived and is durable. :raises NoSpace:"""
        self.close()
        self._raise_failed()
        with errors.errors_of("write", self._name, seconds=self._seconds):
            self._image.flush()

    def digest(self) -> str:
        return self._crcs.digest()


class RbdLayer:
    """An open image as ``cowshed.tools.transfer`` reads it, holes left out.

    :param size: bytes to show; what is behind the image's end is zero
    """

    def __init__(self, image: Any, name: str, *, size: int | None = None, seconds: float = 60.0) -> None:
        self._image = image
        self._name = name
        self._seconds = seconds
        self._end = int(image.size())
        self.size = self._end if size is None else size
        self._starts: list[int] = []
        self._ends: list[int] = []
        with errors.errors_of("read", name, seconds=seconds):
            # By whole objects: the map of objects answers, and no OSD is asked.
            image.diff_iterate(0, self._end, None, self._add, True, True)

    def _add(self, offset: int, length: int, exists: bool) -> None:
        if not exists:
            return
        if self._ends and self._ends[-1] == offset:
            self._ends[-1] = offset + length
        else:
            self._starts.append(offset)
            self._ends.append(offset + length)

    def next_data(self, start: int) -> int:
        index = bisect.bisect_right(self._ends, start)
        return max(start, self._starts[index]) if index < len(self._starts) else max(self.size, start)

    def fill(self, buffer: memoryview, start: int) -> bool:
        stop = min(start + len(buffer), self._end)
        if self.next_data(start) >= stop:
            return False
        with errors.errors_of("read", self._name, seconds=self._seconds):
            data = self._image.read(start, stop - start)
        buffer[: len(data)] = data
        if len(data) < len(buffer):
            buffer[len(data) :] = bytes(len(buffer) - len(data))
        return True
