"""The image service contract on a real Glance."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed.contract.imaging import ImageService
from cowshed.images.glance import GlanceService
from cowshed.testing.conformance import ImageServiceConformance
from tests.glance_server import Glance


class TestGlance(ImageServiceConformance):
    @pytest.fixture(autouse=True)
    def made(self, tmp_path: Path, glance: Glance) -> Iterator[None]:
        """Each begins with a project that has no images, so they take turns."""
        self.place = tmp_path
        glance_service = GlanceService(glance.section("stranger"))
        with (glance.place / "conformance.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for image in glance_service.list():
                glance_service.delete(image.id)
            self.service: ImageService = glance_service
            yield
        glance_service.close()
