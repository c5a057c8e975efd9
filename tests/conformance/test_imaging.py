"""The image service contract on the directory service and in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowshed.contract.imaging import ImageService
from cowshed.errors import DigestMismatch
from cowshed.images.directory import DirectoryService
from cowshed.testing import MemoryImages
from cowshed.testing.conformance import ImageServiceConformance


class TestDirectory(ImageServiceConformance):
    @pytest.fixture(autouse=True)
    def made(self, tmp_path: Path) -> None:
        self.place = tmp_path / "place"
        self.place.mkdir()
        self.service: ImageService = DirectoryService(tmp_path / "images")


class TestMemory(ImageServiceConformance):
    @pytest.fixture(autouse=True)
    def made(self, tmp_path: Path) -> None:
        self.place = tmp_path
        self.service: ImageService = MemoryImages()

    def test_a_corrupt_image_is_not_downloaded(self) -> None:
        assert isinstance(self.service, MemoryImages)
        image = self.service.add("debian", b"x" * 512)
        self.service.corrupt(image)
        with pytest.raises(DigestMismatch):
            self.service.download(image, self.place / "target")
        assert not (self.place / "target").exists()
