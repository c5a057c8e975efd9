"""Pulling into a service that is not on this host: through a folder here, judged, then sent on.

What enters must be inspected as a whole before anybody else may see it, and a broken download must be resumable; both
need a file. The folder vanishes with the pull, whatever comes of it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cowshed.config import ImagesSection
from cowshed.contract.callbacks import Progress
from cowshed.contract.imaging import ImageService
from cowshed.errors import NameTaken
from cowshed.images.directory import DirectoryService
from cowshed.images.incoming import Incoming
from cowshed.model.image import Image


class Staging(DirectoryService):
    """A directory service that publishes into another service."""

    def __init__(self, root: Path, section: ImagesSection, target: ImageService, progress: Progress) -> None:
        super().__init__(root, section)
        self._target = target
        self._progress = progress

    @contextmanager
    def incoming(self, image: Image) -> Iterator[Incoming]:
        if image.name and self._target.list(name=image.name):  # asked without the lock: a server may be slow
            hint = f"choose another name, or remove that one: cowshed image rm {image.name}"
            raise NameTaken(kind="image", name=image.name, hint=hint)
        with super().incoming(image) as place:
            yield place

    def _has(self, name: str) -> bool:
        """What the folder holds from when it was the store itself is no image of the other service's."""
        return False

    def publish(self, place: Incoming, image: Image) -> Image:
        with os.fdopen(os.dup(place.fd), "rb") as source:
            source.seek(0)
            return self._target.upload(image, source, progress=self._progress)


def store_for(service: ImageService, root: Path, section: ImagesSection, progress: Progress) -> DirectoryService:
    """Where a pull writes so that the image ends in ``service``."""
    if isinstance(service, DirectoryService):
        return service
    return Staging(root, section, service, progress)
