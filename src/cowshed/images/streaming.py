"""Fill a base from a stream that passes once, with nothing stored on the way.

What must be judged before anything is written comes first, into a file that is nearly all hole: the head of a raw
image; header and tables of a qcow2 image, by range requests. Then all bytes pass once, hashed, and what is data goes
to its place. The tables are compared again when they pass, so what was judged is what was hashed.
"""

from __future__ import annotations

import mmap
import os
import sys
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from queue import SimpleQueue
from types import TracebackType
from typing import BinaryIO, Final

from cowshed.contract.callbacks import Progress
from cowshed.contract.imaging import ImageService
from cowshed.contract.storage import ContentSink, OpenSink
from cowshed.errors import DataCorrupt, FetchFailed, UnsupportedOperation
from cowshed.images.intake import Digest
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image
from cowshed.tools import filesystem, qcow2
from cowshed.tools import format as formats
from cowshed.tools.qcow2.header import MAX_L1, parse_header
from cowshed.tools.qcow2.mapping import Extent, Kind, mapping
from cowshed.tools.transfer import Copied
from cowshed.tools.transfer.layers import clear, inflater
from cowshed.tools.transfer.pump import CHUNK

_PIECE: Final = 1 << 20
_HEAD: Final = 4 * formats.HEAD  # enough for every inspector
_BUFFERS: Final = 6  # of CHUNK bytes, for what is on its way to the sink
_OPEN: Final = 64  # chunks of a qcow2 image that may wait for their other clusters; more scattered ones are spooled
_REQUESTS: Final = 256
_GAP: Final = 256 << 10  # bytes between two tables that are cheaper to fetch than to ask again
_TOGETHER: Final = 8 << 20
_WRITERS: Final = 2
_OFFSET: Final = 0x00FF_FFFF_FFFF_FE00


def fill(
    image: Image, service: ImageService, open_sink: OpenSink, place: Path, algorithm: str, progress: Progress
) -> tuple[formats.Inspection, Copied] | None:
    """None, and nothing done: this image, or this service, needs a copy on this host.

    :raises ImageRejected: :raises FetchFailed: :raises NoSpace:
    """
    if not image.size:
        return None
    filesystem.make_directory(place)
    with filesystem.scratch(place, 0) as probe:
        if image.disk_format == DiskFormat.QCOW2:
            return _qcow2(image, service, open_sink, probe.fd, algorithm, progress)
        return _raw(image, service, open_sink, probe.fd, algorithm, progress)


# --- raw ----------------------------------------------------------------------------------------


def _raw(
    image: Image, service: ImageService, open_sink: OpenSink, probe: int, algorithm: str, progress: Progress
) -> tuple[formats.Inspection, Copied]:
    size = -(-image.size // formats.SECTOR) * formats.SECTOR  # QEMU shows whole sectors
    # The sink first: where there is no space, nothing is asked for.
    with _Passing(open_sink(size, image.size), algorithm, progress) as passing, service.open(image) as stream:
        progress.phase("base", image.size)
        head = stream.read(min(_HEAD, image.size))
        found = _judged(image, probe, [(0, head)])
        tail = b""
        position, waiting = 0, head
        while position < image.size:
            buffer = passing.buffer()
            length = min(CHUNK, image.size - position)
            done = _read_into(stream, buffer[:length], waiting)
            waiting = b""
            if done < length:
                raise _broken(image, f"it ended after {position + done} of {image.size} bytes")
            passing.hash(bytes(buffer[:length]))
            tail = (tail + bytes(buffer[max(0, length - formats.SECTOR) : length]))[-formats.SECTOR :]
            whole = min(CHUNK, size - position)
            clear(buffer[length:whole])
            passing.write(position, buffer, whole)
            position += length
        _check_end(image, stream)
        formats.decide(formats.found_in(head[: formats.HEAD], tail), image.disk_format, _name(image))
        return found, passing.finish()


def _read_into(stream: BinaryIO, buffer: memoryview, first: bytes) -> int:
    buffer[: len(first)] = first
    done = len(first)
    while done < len(buffer) and (data := stream.read(min(_PIECE, len(buffer) - done))):
        buffer[done : done + len(data)] = data
        done += len(data)
    return done


# --- qcow2 --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Part:
    """``stored`` bytes of the file from ``offset`` on are ``length`` bytes of the guest's disk from ``start`` on.

    ``kind`` None: tables that were judged already.
    """

    offset: int
    stored: int
    kind: Kind | None
    start: int = 0
    length: int = 0


def _qcow2(
    image: Image, service: ImageService, open_sink: OpenSink, probe: int, algorithm: str, progress: Progress
) -> tuple[formats.Inspection, Copied] | None:
    try:
        fetched = _tables(image, service, probe, progress)
    except UnsupportedOperation:
        return None
    if fetched is None:
        return None
    found = _judged(image, probe, [])
    header = qcow2.read_header(probe)
    parts = _parts(mapping(probe, header, merge=CHUNK), found.virtual_size)
    if _most_open(parts) > _OPEN:
        return None
    parts += [_Part(offset, length, None) for offset, length in fetched]
    parts.sort(key=lambda part: (part.offset, part.stored))
    sink = open_sink(found.virtual_size, min(found.data, found.virtual_size))
    with _Passing(sink, algorithm, progress) as passing, service.open(image) as stream:
        progress.phase("base", image.size)
        _Assembly(image, header, parts, probe, found.virtual_size, passing).run(stream)
        return found, passing.finish()


def _tables(image: Image, service: ImageService, probe: int, progress: Progress) -> Sequence[tuple[int, int]] | None:
    """Fetch what :func:`formats.inspect` and the mapping read; (offset, length) of each piece. None: too many."""
    fetched: list[tuple[int, int]] = []

    def fetch(offset: int, length: int) -> bytes:
        progress.check()
        length = min(length, image.size - offset)
        if length <= 0:
            return b""
        with service.open_range(image, offset, length) as part:
            data = part.read(length)
        if len(data) < length:
            raise _broken(image, f"a part of it ended after {len(data)} of {length} bytes")
        filesystem.write_all(probe, data, offset)
        fetched.append((offset, length))
        return data

    head = fetch(0, formats.HEAD)
    os.ftruncate(probe, image.size)
    formats.look(head, declared=image.disk_format, allowed=tuple(DiskFormat), image=_name(image))
    header = parse_header(head)
    if header.l1_size * 8 > MAX_L1 or header.l1_offset >= image.size:
        return fetched  # the inspection says what is wrong
    l1 = array("Q")
    data = fetch(header.l1_offset, header.l1_size * 8)
    l1.frombytes(data[: len(data) // 8 * 8])
    if sys.byteorder == "little":
        l1.byteswap()
    wanted = sorted({entry & _OFFSET for entry in l1 if entry & _OFFSET} - {0})
    groups = _together([offset for offset in wanted if offset < image.size], header.cluster_size)
    if len(groups) > _REQUESTS:
        return None
    for offset, length in groups:
        fetch(offset, length)
    return fetched


def _together(offsets: Sequence[int], size: int) -> list[tuple[int, int]]:
    """(offset, length) of the requests for pieces of ``size`` bytes."""
    found: list[tuple[int, int]] = []
    for offset in offsets:
        if found and offset - sum(found[-1]) <= _GAP and offset + size - found[-1][0] <= _TOGETHER:
            found[-1] = (found[-1][0], offset + size - found[-1][0])
        else:
            found.append((offset, size))
    return found


def _parts(extents: Iterator[Extent], size: int) -> list[_Part]:
    """In the order of the file, none across the border of two chunks, nothing behind ``size``."""
    parts = []
    for extent in extents:
        if extent.kind is Kind.COMPRESSED and extent.start < size:
            parts.append(
                _Part(extent.offset, extent.stored, extent.kind, extent.start, min(extent.length, size - extent.start))
            )
        elif extent.kind is Kind.DATA:
            position, end = extent.start, min(extent.start + extent.length, size)
            while position < end:
                length = min(end, (position // CHUNK + 1) * CHUNK) - position
                parts.append(_Part(extent.offset + position - extent.start, length, extent.kind, position, length))
                position += length
    parts.sort(key=lambda part: part.offset)
    return parts


def _most_open(parts: Sequence[_Part]) -> int:
    """How many chunks wait for more at the same time, at most."""
    left = Counter(part.start // CHUNK for part in parts)
    begun: set[int] = set()
    most = 0
    for part in parts:
        chunk = part.start // CHUNK
        begun.add(chunk)
        most = max(most, len(begun))
        left[chunk] -= 1
        if not left[chunk]:
            begun.discard(chunk)
    return most


class _Assembly:
    """Puts the clusters together to chunks while the file passes."""

    def __init__(
        self, image: Image, header: qcow2.Header, parts: Sequence[_Part], probe: int, size: int, passing: _Passing
    ) -> None:
        self._image = image
        self._cluster = header.cluster_size
        self._inflate = inflater(header.compression)
        self._parts = parts
        self._probe = probe
        self._size = size
        self._passing = passing
        self._left: Counter[int] = Counter()  # parts of each chunk that have not come yet
        self._bytes: Counter[int] = Counter()  # of each chunk that come at all; the others are zero
        for part in parts:
            if part.kind:
                self._left[part.start // CHUNK] += 1
                self._bytes[part.start // CHUNK] += part.length
        self._open: dict[int, memoryview] = {}
        self._window = bytearray()
        self._begin = 0  # of the window in the file

    def run(self, stream: BinaryIO) -> None:
        for part in self._parts:
            self._pass(stream, part.offset)
            self._have(stream, part.offset + part.stored)
            inside = part.offset - self._begin
            with memoryview(self._window) as window, window[inside : inside + part.stored] as stored:
                self._place(part, stored)
        self._pass(stream, self._image.size)
        _check_end(self._image, stream)

    def _pass(self, stream: BinaryIO, offset: int) -> None:
        """Nothing before ``offset`` is needed any more; what of it has not come yet is only hashed."""
        while (position := self._begin + len(self._window)) < offset:
            self._drop(position)
            self._have(stream, min(position + _PIECE, offset))
        self._drop(offset)

    def _have(self, stream: BinaryIO, end: int) -> None:
        while (position := self._begin + len(self._window)) < end:
            data = stream.read(min(_PIECE, self._image.size - position))
            if not data:
                raise _broken(self._image, f"it ended after {position} of {self._image.size} bytes")
            self._passing.hash(data)
            self._window += data

    def _drop(self, offset: int) -> None:
        behind = min(offset - self._begin, len(self._window))
        if behind >= _PIECE or behind == len(self._window):
            del self._window[:behind]
            self._begin += behind

    def _place(self, part: _Part, stored: memoryview) -> None:
        if part.kind is None:
            if os.pread(self._probe, part.stored, part.offset) != stored:
                raise _broken(self._image, "its tables are others than before")
            return
        chunk, inside = divmod(part.start, CHUNK)
        if chunk not in self._open:
            buffer = self._passing.buffer()
            if self._bytes[chunk] < CHUNK:
                clear(buffer)
            self._open[chunk] = buffer
        data = stored if part.kind is Kind.DATA else self._unpacked(bytes(stored))
        self._open[chunk][inside : inside + part.length] = data[: part.length]
        self._left[chunk] -= 1
        if not self._left[chunk]:
            self._passing.write(chunk * CHUNK, self._open.pop(chunk), min(CHUNK, self._size - chunk * CHUNK))

    def _unpacked(self, stored: bytes) -> bytes:
        try:
            data = self._inflate(stored, self._cluster)
        except Exception as error:  # each library has its own error class
            raise DataCorrupt(
                path=f"image {_name(self._image)}", reason=f"a compressed cluster cannot be unpacked: {error}"
            ) from error
        if len(data) != self._cluster:
            raise DataCorrupt(path=f"image {_name(self._image)}", reason="a compressed cluster is cut short")
        return data


# --- both ---------------------------------------------------------------------------------------


class _Passing:
    """Hashes on one thread and writes on others while the caller receives."""

    def __init__(self, sink: ContentSink, algorithm: str, progress: Progress) -> None:
        self._sink = sink
        self._progress = progress
        self._digest = Digest(algorithm)
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        self._made = 0
        self._closed = False
        self._writers = ThreadPoolExecutor(_WRITERS, "base")
        self._flying: list[Future[None]] = []

    def __enter__(self) -> _Passing:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writers.shutdown(cancel_futures=True)
        self._digest.close()
        if not self._closed:
            self._sink.close()

    def buffer(self) -> memoryview:
        """CHUNK bytes, page-aligned, with anything in them; waits for the writers where many are on their way."""
        self._progress.check()
        self._settle()
        if self._free.empty() and self._made < _OPEN + _BUFFERS and len(self._flying) < _BUFFERS:
            self._made += 1
            return memoryview(mmap.mmap(-1, CHUNK))
        if self._free.empty():
            for one in list(self._flying):
                one.result()
        return self._free.get()

    def hash(self, data: bytes) -> None:
        self._digest.update(data)
        self._progress.update(len(data))

    def write(self, start: int, buffer: memoryview, length: int) -> None:
        self._flying.append(self._writers.submit(self._write, start, buffer, length))

    def _write(self, start: int, buffer: memoryview, length: int) -> None:
        try:
            self._sink.write(start, buffer[:length])
        finally:
            self._free.put(buffer)

    def _settle(self) -> None:
        """Errors of the writers, as soon as they are known."""
        done = [one for one in self._flying if one.done()]
        self._flying = [one for one in self._flying if not one.done()]
        for one in done:
            one.result()

    def finish(self) -> Copied:
        for one in self._flying:
            one.result()
        self._writers.shutdown()
        self._closed = True
        self._sink.close()
        return Copied(self._digest.result(), self._sink.digest(), self._sink.written)


def _judged(image: Image, probe: int, pieces: Sequence[tuple[int, bytes]]) -> formats.Inspection:
    for offset, data in pieces:
        filesystem.write_all(probe, data, offset)
    os.ftruncate(probe, image.size)
    found = formats.inspect(
        probe, image=_name(image), declared=image.disk_format, allowed=tuple(DiskFormat), max_virtual_size=1 << 62
    )
    return found if found.format == DiskFormat.QCOW2 else replace(found, data=image.size)


def _check_end(image: Image, stream: BinaryIO) -> None:
    if stream.read(1):
        raise _broken(image, f"it goes on after {image.size} bytes")


def _broken(image: Image, reason: str) -> FetchFailed:
    return FetchFailed(url=f"image {_name(image)}", reason=reason, hint="try again")


def _name(image: Image) -> str:
    return image.name or image.id
