"""The image service contract on a real Glance."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed.contract.imaging import ImageService
from cowshed.images.glance import GlanceService
from cowshed.testing.conformance import ImageServiceConformance
from tests.glance_server import Glance

pytestmark = pytest.mark.xdist_group("glance-conformance")  # they begin with a project that has no images


class TestGlance(ImageServiceConformance):
    @pytest.fixture(autouse=True)
    def made(self, tmp_path: Path, glance: Glance) -> Iterator[None]:
        self.place = tmp_path
        glance_service = GlanceService(glance.section("stranger"))
        for image in glance_service.list():
            glance_service.delete(image.id)
        self.service: ImageService = glance_service
        yield
        glance_service.close()
