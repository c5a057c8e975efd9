"""Fill a base from an image service: read, hash, inspect, convert and write in one pass."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from cowshed.contract.callbacks import Progress
from cowshed.contract.imaging import ImageService
from cowshed.contract.storage import OpenSink
from cowshed.errors import DataCorrupt, FetchFailed, InvalidRequest
from cowshed.images import streaming
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image
from cowshed.tools import checksum, filesystem, sparse, transfer
from cowshed.tools import format as formats
from cowshed.tools.transfer import Copied

_CHUNK = 1 << 20
_ACCEPTED = tuple(DiskFormat)  # which formats may enter is the store's policy; here the record decides
_LARGEST = 1 << 62


def fill(
    image: Image, service: ImageService, open_sink: OpenSink, place: Path, *, keep_format: bool, progress: Progress
) -> tuple[formats.Inspection, Copied]:
    """Write the base of ``image`` to what ``open_sink`` opens.

    :param place: a folder for what must lie on this host meanwhile (a stream that is no local file)

    :raises ImageRejected: the bytes are not what the record says, or unsafe
    :raises DigestMismatch: :raises NoSpace:
    :raises FetchFailed: the service sends fewer or more bytes than the record says
    :raises DataCorrupt: its own file has another size
    """
    algorithm = image.os_hash_algo or "sha256"
    if algorithm not in checksum.LENGTHS:
        raise InvalidRequest(
            reason=f"image {_name(image)} has a digest of type {algorithm!r}", hint="sha256 and sha512 are known"
        )
    if not (keep_format and image.disk_format == DiskFormat.QCOW2) and service.local_path(image) is None:
        streamed = streaming.fill(image, service, open_sink, place, algorithm, progress)
        if streamed is not None:
            return _checked(image, algorithm, *streamed)
    with _stored(image, service, place, progress) as source:
        found = formats.inspect(
            source,
            image=_name(image),
            declared=image.disk_format,
            allowed=_ACCEPTED,
            max_virtual_size=_LARGEST,
        )
        progress.phase("base", found.virtual_size)
        copied = transfer.fetch(
            source, open_sink, found, algorithm=algorithm, keep_format=keep_format, progress=progress
        )
    return _checked(image, algorithm, found, copied)


def _checked(
    image: Image, algorithm: str, found: formats.Inspection, copied: Copied
) -> tuple[formats.Inspection, Copied]:
    if image.os_hash_value:
        checksum.check(f"image {_name(image)}", algorithm, image.os_hash_value, copied.source_digest)
    return found, copied


@contextmanager
def _stored(image: Image, service: ImageService, place: Path, progress: Progress) -> Iterator[int]:
    """A descriptor of the stored bytes: the service's own file, or a spooled copy that has no name."""
    path = service.local_path(image)
    if path is not None:
        with filesystem.errors_of(path, "read"):
            fd = filesystem.open_regular(path)
        try:
            if image.size and os.fstat(fd).st_size != image.size:
                raise DataCorrupt(path=path, reason=f"it has {os.fstat(fd).st_size} bytes instead of {image.size}")
            yield fd
        finally:
            os.close(fd)
        return
    filesystem.make_directory(place)
    filesystem.check_space(place, image.size)
    with filesystem.scratch(place, 0) as spool:
        with service.open(image) as stream:
            progress.phase("download", image.size or None)
            received = _spool(image, stream, spool.fd, progress)
        if image.size and received < image.size:
            raise _broken(image, f"it ended after {received} of {image.size} bytes")
        yield spool.fd


def _spool(image: Image, stream: BinaryIO, target: int, progress: Progress) -> int:
    """Bytes received; zeros stay holes, and what is clearly not acceptable is not received to its end."""
    head, position = bytearray(), 0
    while data := stream.read(_CHUNK):
        progress.check()
        if len(head) < formats.HEAD:
            head += data
            if len(head) >= formats.HEAD:
                formats.look(
                    bytes(head[: formats.HEAD]), declared=image.disk_format, allowed=_ACCEPTED, image=_name(image)
                )
        if image.size and position + len(data) > image.size:
            raise _broken(image, f"it goes on after {image.size} bytes")
        if any(data[:16]) or any(data):
            filesystem.write_all(target, data, position)
            sparse.start_writing(target, position, len(data))
        position += len(data)
        progress.update(len(data))
    os.ftruncate(target, position)
    return position


def _broken(image: Image, reason: str) -> FetchFailed:
    return FetchFailed(url=f"image {_name(image)}", reason=reason, hint="try again")


def _name(image: Image) -> str:
    return image.name or image.id
