"""Images in memory: the image service contract without a store."""

from __future__ import annotations

import builtins
import hashlib
import io
import tempfile
import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from cowshed import clock
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.imaging import ImageService
from cowshed.errors import Conflict, ImageNotFound, InvalidRequest, NameTaken
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image, ImageStatus, Location
from cowshed.tools import checksum, filesystem
from cowshed.tools import format as formats

_CHANGEABLE = ("name", "properties", "min_disk", "min_ram")


class MemoryImages(ImageService):
    """Images of a test; uploads are inspected as in the real store."""

    def __init__(self) -> None:
        self._records: dict[str, Image] = {}
        self._bytes: dict[str, bytes] = {}
        self._lock = threading.Lock()

    def add(self, name: str, data: bytes = bytes(512), **fields: Any) -> Image:
        """A short way to :meth:`upload`: ``images.add("debian", b"...", disk_format=DiskFormat.QCOW2)``."""
        return self.upload(Image(id="", name=name, **fields), io.BytesIO(data))

    # --- find and read ------------------------------------------------------------------------

    def show(self, ref: str) -> Image:
        if ref in self._records:
            return self._records[ref]
        found = self.list(name=ref)
        if len(found) > 1:
            raise Conflict(reason=f"several images are called {ref}", hint="give the id")
        if not found:
            raise ImageNotFound(name=ref)
        return found[0]

    def list(self, *, name: str | None = None) -> Sequence[Image]:
        return [image for image in builtins.list(self._records.values()) if name in (None, image.name)]

    def content(self, image: Image) -> bytes:
        """The stored bytes. :raises ImageNotFound:"""
        try:
            return self._bytes[image.id]
        except KeyError:
            raise ImageNotFound(name=image.name or image.id) from None

    def open(self, image: Image, *, offset: int = 0) -> BinaryIO:
        stream = io.BytesIO(self.content(image))
        stream.seek(offset)
        return stream

    def download(self, image: Image, target: Path, *, progress: Progress = SILENT) -> None:
        data = self.content(image)
        self.verify(image)
        progress.phase("copy", len(data))
        with filesystem.publish(target) as publication:
            publication.path.write_bytes(data)
        progress.update(len(data))

    def verify(self, image: Image, *, progress: Progress = SILENT) -> None:
        """:raises DigestMismatch: :meth:`corrupt` was here"""
        actual = hashlib.new(image.os_hash_algo, self.content(image)).hexdigest()
        checksum.check(f"image {image.name or image.id}", image.os_hash_algo, image.os_hash_value, actual)

    def locations(self, image: Image) -> Sequence[Location]:
        self.content(image)
        return ()

    # --- write --------------------------------------------------------------------------------

    def upload(self, image: Image, source: BinaryIO, *, progress: Progress = SILENT) -> Image:
        data = source.read()
        now = clock.current().time()
        image = replace(
            image,
            id=image.id or str(uuid.uuid4()),
            status=ImageStatus.ACTIVE,
            size=len(data),
            virtual_size=self._inspect(image, data),
            os_hash_algo="sha256",
            os_hash_value=hashlib.sha256(data).hexdigest(),
            created_at=image.created_at or now,
            updated_at=now,
        )
        with self._lock:
            self._refuse_taken(image)
            self._records[image.id], self._bytes[image.id] = image, data
        return image

    def _refuse_taken(self, image: Image) -> None:
        for taken in self._records.values():
            if taken.id == image.id or (image.name and taken.name == image.name):
                raise NameTaken(kind="image", name=image.name or image.id)

    @staticmethod
    def _inspect(image: Image, data: bytes) -> int:
        """The size a guest sees. :raises ImageRejected:"""
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            found = formats.inspect(
                file.fileno(),
                image=image.name or image.id,
                declared=image.disk_format,
                allowed=tuple(DiskFormat),
            )
        return found.virtual_size

    def update(self, image_id: str, changes: Mapping[str, Any]) -> Image:
        if unknown := [key for key in changes if key not in _CHANGEABLE]:
            raise InvalidRequest(reason=f"{', '.join(unknown)} of an image cannot be changed")
        with self._lock:
            image = replace(self.show(image_id), **changes, updated_at=clock.current().time())
            self._records[image.id] = image
        return image

    def delete(self, image_id: str) -> None:
        with self._lock:
            image = self.show(image_id)
            del self._records[image.id], self._bytes[image.id]

    def corrupt(self, image: Image) -> None:
        """For tests of what follows: the stored bytes are no longer the ones that were uploaded."""
        self._bytes[image.id] = self.content(image)[:-1] + b"?"
