"""The image service contract: where images are kept, with Glance's meaning of each call."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.errors import UnsupportedOperation
from cowshed.model.image import Image, ImageStatus, Location


class ImageService(ABC):
    """Find, read and write images. An image's bytes never change once it is active."""

    @abstractmethod
    def show(self, ref: str) -> Image:
        """The image with this id, or with this name where exactly one has it.

        :raises ImageNotFound:
        :raises Conflict: several images have this name
        """

    @abstractmethod
    def list(self, *, name: str | None = None) -> Sequence[Image]:
        """All images that may be used, oldest first."""

    @abstractmethod
    def open(self, image: Image, *, offset: int = 0) -> BinaryIO:
        """The stored bytes from ``offset`` on, as a stream to be closed by the caller.

        :raises ImageNotFound:
        """

    def open_range(self, image: Image, start: int, length: int) -> BinaryIO:
        """``length`` stored bytes from ``start`` on, without reading others.

        :raises UnsupportedOperation: this service, or the place where it has these bytes, sends only all of them
        """
        raise UnsupportedOperation(subject="this image service", operation="send a part", reason="it sends streams")

    def local_path(self, image: Image) -> Path | None:
        """The file with the stored bytes, if they lie on this host (random access is faster)."""
        return None

    @abstractmethod
    def download(self, image: Image, target: Path, *, progress: Progress = SILENT) -> None:
        """Write the stored bytes to ``target`` (published whole, digest checked).

        :raises DigestMismatch: :raises NoSpace: :raises ImageNotFound:
        """

    def verify(self, image: Image, *, progress: Progress = SILENT) -> None:
        """Read the stored bytes again and check their digest.

        :raises DigestMismatch: :raises ImageNotFound:
        :raises UnsupportedOperation: this service keeps no digests
        """
        raise UnsupportedOperation(
            subject="this image service", operation="check an image", reason="it keeps no digests"
        )

    @abstractmethod
    def upload(self, image: Image, source: BinaryIO, *, progress: Progress = SILENT) -> Image:
        """Store the bytes of ``source`` as ``image`` and return the active record (size, digest).

        :raises ImageRejected: the bytes are unsafe or not of ``image.disk_format``
        :raises NameTaken: an active image has this id
        """

    @abstractmethod
    def update(self, image_id: str, changes: Mapping[str, Any]) -> Image:
        """Change name, properties, min_disk or min_ram. :raises ImageNotFound:"""

    @abstractmethod
    def delete(self, image_id: str) -> None:
        """Forget the image; its bases in the cache stay while disks use them. :raises ImageNotFound:"""

    @abstractmethod
    def locations(self, image: Image) -> Sequence[Location]:
        """Where else the bytes can be had, best first; may be empty."""

    def reserve(self, image: Image) -> Image:
        """A record whose bytes come later; an empty id is filled in. Some services keep none before :meth:`upload`."""
        return replace(image, id=image.id or str(uuid.uuid4()), status=ImageStatus.QUEUED)

    def reserved(self, image_id: str) -> Image:
        """The record that waits for its bytes.

        :raises ImageNotFound: this service keeps such records, and has none of this id
        :raises NameTaken: it has its bytes already
        """
        return Image(id=image_id, status=ImageStatus.QUEUED)

    def release(self, image_id: str) -> None:  # noqa: B027 - see reserve
        """Forget a record that got no bytes; already gone is success."""

    def add_location(self, image: Image, location: Location, *, progress: Progress = SILENT) -> Image:
        """Let the bytes at ``location``, of ``image.disk_format``, be those of the record of ``image``.

        :raises UnsupportedOperation: this service keeps all bytes itself
        :raises ImageNotFound: the record is gone
        """
        raise UnsupportedOperation(
            subject="this image service", operation="register a location", reason="it keeps the bytes itself"
        )

    def copy_to_store(self, image: Image, store: str, *, progress: Progress = SILENT) -> Image:
        """Have the bytes in the service's store ``store`` as well; there already is success.

        :raises UnsupportedOperation: this service has no stores
        """
        raise UnsupportedOperation(
            subject="this image service", operation=f"copy an image to store {store}", reason="it has no stores"
        )

    def clean(self) -> int:
        """Remove what killed processes left on this host; how many things went."""
        return 0

    def close(self) -> None:  # noqa: B027 - nothing to do for most
        """Give connections back; the next call opens them again."""
