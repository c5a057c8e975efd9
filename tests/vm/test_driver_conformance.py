"""The driver contract on libvirt: the same suite that the fake driver passes."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed.config import Config, HostSection
from cowshed.contract.compute import ComputeDriver
from cowshed.driver import LibvirtDriver
from cowshed.errors import InvalidRequest
from cowshed.model.image import Image
from cowshed.testing.conformance import DriverConformance


@pytest.fixture(scope="module")
def place(guest_dir: Path) -> Iterator[Path]:
    """State with the tiny image in it. Not below pytest's own directory, where a system QEMU could not enter."""
    folder = Path(tempfile.mkdtemp(prefix="cowshed-conform-", dir="/tmp"))
    os.chmod(folder, 0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def driver(place: Path, libvirt_uri: str) -> Iterator[LibvirtDriver]:
    config = Config(host=HostSection(uri=libvirt_uri, state=str(place), virt_type="qemu"))
    made = LibvirtDriver(config=config)
    made.init_host("here")
    yield made
    made.cleanup_host("here")


@pytest.fixture(scope="module")
def image(driver: LibvirtDriver, guest_dir: Path) -> Image:
    return driver.pull_image(str(guest_dir / "tiny.qcow2"), name="tiny")


class TestLibvirt(DriverConformance):
    @pytest.fixture(autouse=True)
    def made(self, driver: LibvirtDriver, image: Image, place: Path) -> Iterator[None]:
        self.driver: ComputeDriver = driver
        self.image = image
        yield
        self.clean()
        assert driver.list_instances() == []
        assert not list((place / "instances").glob("*"))

    def test_user_data_that_cannot_be_is_refused_before_an_image_is_fetched(
        self, driver: LibvirtDriver, image: Image, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver.cache, "get", lambda *_, **__: pytest.fail("an image was fetched"))
        instance = self.instance(user_data="x" * (17 << 20))
        with pytest.raises(InvalidRequest, match="16 MiB"):
            driver.spawn(None, instance, image, [], None)
