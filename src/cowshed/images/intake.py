"""One pass from source bytes to the store: digest, unpack, first look, write without zeros."""

from __future__ import annotations

import hashlib
import os
import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from cowshed.config import ImagesSection
from cowshed.errors import ConfigError
from cowshed.images import unpack
from cowshed.model.disk import DiskFormat
from cowshed.tools import checksum, sparse
from cowshed.tools import format as formats
from cowshed.units import KiB, MiB

CHUNK: Final = 1 * MiB
BLOCK: Final = 64 * KiB  # the smallest run of zeros that becomes a hole; smaller ones would only split the file
_WRITE_BACK: Final = 8 * MiB
_ZEROS: Final = bytes(CHUNK)
_QUEUE: Final = 8  # chunks between the reader and the digest

OPAQUE: Final = (DiskFormat.AKI, DiskFormat.ARI)  # kernel and ramdisk: nothing ever opens them as a disk


def allowed(section: ImagesSection) -> tuple[DiskFormat, ...]:
    """:raises ConfigError: a format in the configuration does not exist"""
    try:
        return tuple(DiskFormat(name) for name in section.formats)
    except ValueError as error:
        raise ConfigError(source="[images] formats", reason=str(error), hint=", ".join(DiskFormat)) from error


class Digest:
    """A digest computed on a thread of its own, so that hashing and writing overlap."""

    def __init__(self, algorithm: str) -> None:
        self.algorithm = algorithm
        self._hasher = hashlib.new(algorithm)
        self._queue: queue.Queue[bytes | None] = queue.Queue(_QUEUE)
        self._thread = threading.Thread(target=self._run, name="digest", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while (data := self._queue.get()) is not None:
            self._hasher.update(data)

    def update(self, data: bytes) -> None:
        self._queue.put(data)

    def zeros(self, length: int) -> None:
        while length > 0:
            self.update(_ZEROS if length >= CHUNK else _ZEROS[:length])
            length -= CHUNK

    def close(self) -> None:
        if self._thread.is_alive():
            self._queue.put(None)
            self._thread.join()

    def result(self) -> str:
        """The hex digest of all that was given."""
        self.close()
        return self._hasher.hexdigest()


class SparseWriter:
    """Writes in order; blocks of zeros become holes. Write-back starts early, so the last sync is short."""

    def __init__(self, fd: int, position: int = 0) -> None:
        self.fd = fd
        self.position = position
        self.written = 0  # bytes that are not in holes
        self._behind = position

    def write(self, data: bytes) -> None:
        start = 0
        for offset, length in _runs(data, self.position):
            self._put(memoryview(data)[offset : offset + length], self.position + offset)
            start = offset + length
            self.written += length
        self.position += len(data)
        if start and self.position - self._behind >= _WRITE_BACK:
            sparse.start_writing(self.fd, self._behind, self.position - self._behind)
            self._behind = self.position

    def skip(self, length: int) -> None:
        self.position += length

    def finish(self) -> None:
        """Give the file its length: zeros at the end were not written."""
        os.ftruncate(self.fd, self.position)

    def _put(self, data: memoryview, offset: int) -> None:
        while data:
            done = os.pwrite(self.fd, data, offset)
            data, offset = data[done:], offset + done


def _runs(data: bytes, position: int) -> Iterator[tuple[int, int]]:
    """(offset, length) of the stretches of ``data`` that are not all zeros, in blocks of the file it belongs to."""
    begin: int | None = None
    offset = 0
    while offset < len(data):
        end = min(len(data), offset + BLOCK - (position + offset) % BLOCK)
        # The first byte decides nearly always, without copying a block.
        if data[offset] == 0 and not data[offset:end].strip(b"\0"):
            if begin is not None:
                yield begin, offset - begin
                begin = None
        elif begin is None:
            begin = offset
        offset = end
    if begin is not None:
        yield begin, len(data) - begin


@dataclass(frozen=True, slots=True)
class Taken:
    """What came in. ``fd`` holds the stored bytes; ``wrapper`` is what they were packed in, or empty.

    The digest of the source is the one that was asked for, that of the stored bytes the cheapest.
    """

    fd: int
    algorithm: str
    source_digest: str
    stored_algorithm: str
    stored_digest: str
    wrapper: str


class Intake:
    """Takes the bytes of a source in order.

    :param target: empty file for the stored bytes
    :param spool: file for the bytes as they come; where they need no unpacking it holds the stored
        bytes in the end, and ``target`` stays empty
    :param wrapped: a compressed wrapper is unpacked
    :raises ImageRejected: as soon as it is clear
    """

    def __init__(
        self,
        target: int,
        *,
        image: str,
        declared: DiskFormat | None,
        section: ImagesSection,
        algorithm: str = "sha256",
        spool: int | None = None,
        wrapped: bool = True,
    ) -> None:
        self._target = target
        self._spool_fd = spool
        self._image = image
        self._declared = declared
        self._section = section
        self._allowed = allowed(section)
        self._algorithm = algorithm
        self._wrapped = wrapped and declared not in OPAQUE
        self._digests: list[Digest] = []
        self._start()

    def _start(self) -> None:
        self.close()
        self._pending: list[bytes] = []
        self._waiting = 0
        self._unpacker: unpack.Unpacker | None = None
        self._decided = False
        self._head = bytearray()
        self._looked = False
        self._source = Digest(self._algorithm)
        self._digests = [self._source]
        # Every use of the image will hash the stored bytes again, so their digest is the one that costs least.
        own = checksum.quicker(self._algorithm)
        self._stored = self._source if own == self._algorithm else self._new_digest(own)
        self._spool = None if self._spool_fd is None else SparseWriter(self._spool_fd)
        self._writer = self._spool or SparseWriter(self._target)

    def _new_digest(self, algorithm: str) -> Digest:
        self._digests.append(Digest(algorithm))
        return self._digests[-1]

    def begin(self, start: int) -> None:
        """The next bytes are those from ``start`` on; those before lie in the spool already."""
        self._start()
        if self._target != self._spool_fd:
            os.ftruncate(self._target, 0)
        if self._spool_fd is None:
            return
        os.ftruncate(self._spool_fd, start)
        for data in _read(self._spool_fd, start):
            self._take(data, replay=True)

    def feed(self, data: bytes) -> None:
        self._pending.append(data)
        self._waiting += len(data)
        if self._waiting >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Everything that was fed is written."""
        if self._waiting:
            data = b"".join(self._pending)
            self._pending, self._waiting = [], 0
            self._take(data)
        if self._spool:
            self._spool.finish()

    def hole(self, length: int) -> None:
        """As many zeros; only for a source that is not wrapped."""
        self.flush()
        self._looked = True  # the head is not in one piece any more; the whole file is inspected later anyway
        for digest in self._digests:
            digest.zeros(length)
        self._writer.skip(length)

    def _take(self, data: bytes, *, replay: bool = False) -> None:
        self._source.update(data)
        if self._spool and replay:
            self._spool.skip(len(data))
        elif self._spool:
            self._spool.write(data)
        if not self._decided:
            self._decide(data)
        if self._unpacker is None:
            if self._stored is not self._source:
                self._stored.update(data)
            self._look(data)
            if not self._spool:
                self._writer.write(data)
            return
        for piece in self._unpacker.feed(data):
            self._look(piece)
            self._stored.update(piece)
            self._writer.write(piece)
        self._unpacker.check_ratio(self._writer.written)

    def _decide(self, data: bytes) -> None:
        """The first chunk (never shorter than a signature, unless the file is) tells whether it is wrapped."""
        self._decided = True
        kind = unpack.wrapper(data) if self._wrapped else None
        if kind is None:
            return
        self._unpacker = unpack.Unpacker(kind, limit=self._section.max_unpacked, image=self._image)
        if self._stored is self._source:
            self._stored = self._new_digest("sha256")
        self._writer = SparseWriter(self._target)

    def _look(self, data: bytes, *, last: bool = False) -> None:
        """Judge the first bytes while the rest is on its way."""
        if self._looked or self._declared in OPAQUE:
            return
        self._head += data[: formats.HEAD - len(self._head)]
        if last or len(self._head) >= formats.HEAD:
            self._looked = True
            declared = disk_format(self._declared)
            formats.look(bytes(self._head), declared=declared, allowed=self._allowed, image=self._image)
            self._head.clear()

    def finish(self) -> Taken:
        """All bytes came. :raises ImageRejected: the wrapper is cut off, or the head is not acceptable"""
        self.flush()
        if self._unpacker:
            self._unpacker.finish()
        if self._head:
            self._look(b"", last=True)
        self._writer.finish()
        source = self._source.result()
        stored = source if self._stored is self._source else self._stored.result()
        kind = self._unpacker.kind if self._unpacker else ""
        return Taken(self._writer.fd, self._algorithm, source, self._stored.algorithm, stored, kind)

    def close(self) -> None:
        for digest in self._digests:
            digest.close()


def disk_format(declared: DiskFormat | None) -> DiskFormat | None:
    """The format of the bytes: an AMI is a raw disk."""
    return DiskFormat.RAW if declared == DiskFormat.AMI else declared


def _read(fd: int, end: int) -> Iterator[bytes]:
    offset = 0
    while offset < end:
        data = os.pread(fd, min(CHUNK, end - offset), offset)
        if not data:
            return
        yield data
        offset += len(data)
