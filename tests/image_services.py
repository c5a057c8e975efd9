"""An image service for tests of the cache, which only ever opens images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.imaging import ImageService
from cowshed.model.image import Image, Location


class OpeningService(ImageService):
    """``open`` is to be written; nothing else may be asked."""

    def show(self, ref: str) -> Image:
        raise NotImplementedError

    def list(self, *, name: str | None = None) -> Sequence[Image]:
        raise NotImplementedError

    def download(self, image: Image, target: Path, *, progress: Progress = SILENT) -> None:
        raise NotImplementedError

    def upload(self, image: Image, source: BinaryIO, *, progress: Progress = SILENT) -> Image:
        raise NotImplementedError

    def update(self, image_id: str, changes: Mapping[str, Any]) -> Image:
        raise NotImplementedError

    def delete(self, image_id: str) -> None:
        raise NotImplementedError

    def locations(self, image: Image) -> Sequence[Location]:
        raise NotImplementedError
