"""Fill a base from an image service: read, hash, inspect, convert and write in one pass."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cowshed.contract.callbacks import Progress
from cowshed.contract.imaging import ImageService
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image
from cowshed.tools import checksum, filesystem, transfer
from cowshed.tools import format as formats
from cowshed.tools.transfer import Copied

_CHUNK = 1 << 20
_ACCEPTED = tuple(DiskFormat)  # which formats may enter is the store's policy; here the record decides
_LARGEST = 1 << 62


def fill(
    image: Image, service: ImageService, target: int, place: Path, *, keep_format: bool, progress: Progress
) -> tuple[formats.Inspection, Copied]:
    """Write the base of ``image`` to the empty file ``target`` in folder ``place``.

    :raises ImageRejected: the bytes are not what the record says, or unsafe
    :raises DigestMismatch: :raises NoSpace:
    """
    algorithm = image.os_hash_algo or "sha256"
    with _stored(image, service, place, progress) as source:
        found = formats.inspect(
            source,
            image=image.name or image.id,
            declared=image.disk_format,
            allowed=_ACCEPTED,
            max_virtual_size=_LARGEST,
        )
        filesystem.check_space(place, os.fstat(source).st_size if keep_format else min(found.data, found.virtual_size))
        progress.phase("base", found.virtual_size)
        copied = transfer.fetch(source, target, found, algorithm=algorithm, keep_format=keep_format, progress=progress)
    if image.os_hash_value:
        checksum.check(f"image {image.name or image.id}", algorithm, image.os_hash_value, copied.source_digest)
    return found, copied


@contextmanager
def _stored(image: Image, service: ImageService, place: Path, progress: Progress) -> Iterator[int]:
    """A descriptor of the stored bytes: the service's own file, or a spooled copy that has no name."""
    path = service.local_path(image)
    if path is not None:
        with filesystem.errors_of(path, "read"):
            fd = filesystem.open_regular(path)
        try:
            yield fd
        finally:
            os.close(fd)
        return
    filesystem.check_space(place, image.size)
    with tempfile.TemporaryFile(dir=place) as spool, service.open(image) as stream:
        progress.phase("download", image.size or None)
        while data := stream.read(_CHUNK):
            progress.check()
            spool.write(data)
            progress.update(len(data))
        spool.flush()
        yield spool.fileno()
