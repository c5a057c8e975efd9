"""The driver contract on libvirt: the same suite that the fake driver passes."""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import Config, ConsoleSection, HostSection
from cowshed.contract.compute import ComputeDriver
from cowshed.contract.promise import is_fulfilled
from cowshed.driver import LibvirtDriver
from cowshed.errors import InvalidRequest
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.testing.conformance import DriverConformance
from cowshed.testing.conformance.driver import ALWAYS_HOLLOW, MOVING, SharePromises, keeping


@pytest.fixture(scope="module")
def place(guest_dir: Path) -> Iterator[Path]:
    """State with the tiny image in it. Not below pytest's own directory, where a system QEMU could not enter."""
    folder = Path(tempfile.mkdtemp(prefix="cowshed-conform-", dir="/tmp"))
    os.chmod(folder, 0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def driver(place: Path, libvirt_uri: str) -> Iterator[LibvirtDriver]:
    """With every kind of console."""
    made = LibvirtDriver(
        config=Config(
            host=HostSection(uri=libvirt_uri, state=str(place), virt_type="qemu"),
            console=ConsoleSection(spice=True, serial_tcp=True),
        )
    )
    made.init_host("here")
    yield made
    made.cleanup_host("here")


@pytest.fixture(scope="module")
def image(driver: LibvirtDriver, guest_dir: Path) -> Image:
    return driver.pull_image(str(guest_dir / "tiny.qcow2"), name="tiny")


@pytest.fixture(scope="module")
def kept(driver: LibvirtDriver) -> Iterator[dict[str, Instance]]:
    """The instance that most promises are tried on: one boot for all of them."""
    with keeping(driver) as kept:
        yield kept
    assert driver.list_instances() == []
    assert not list((driver.rooms.state / "instances").glob("*"))


LATER = MOVING | {"quiesce", "unquiesce"}  # not hollow any more as soon as the driver has them


# os-brick's libraries warn of each other when it is asked for this host's connector.
@pytest.mark.filterwarnings("ignore:Using fork", "ignore::pytest.PytestUnraisableExceptionWarning")
class TestLibvirt(DriverConformance, SharePromises):
    may_be_hollow = ALWAYS_HOLLOW | {call for call in LATER if not is_fulfilled(LibvirtDriver, call)}

    @pytest.fixture(autouse=True)
    def made(
        self,
        request: pytest.FixtureRequest,
        driver: LibvirtDriver,
        image: Image,
        place: Path,
        kept: dict[str, Instance],
    ) -> Iterator[None]:
        self.driver: ComputeDriver = driver
        self.image = image
        self.place = place
        self.kept = kept
        yield
        request.node.user_properties += [("hollow", f"libvirt: {call}") for _, call in getattr(self, "hollow", [])]
        self.clean()
        uuids = {instance.uuid for instance in kept.values()}
        assert set(driver.list_instance_uuids()) == uuids
        assert {path.name for path in (place / "instances").glob("*")} == uuids

    def volume(self, name: str) -> dict[str, Any]:
        file = self.place / "volumes" / f"{name}.raw"
        file.parent.mkdir(exist_ok=True, mode=0o755)
        if not file.exists():
            file.touch()
            os.truncate(file, self.volume_size)
        return {"driver_volume_type": "file", "serial": name, "data": {"path": str(file), "format": "raw"}}

    def reserved(self) -> str:
        assert isinstance(self.driver, LibvirtDriver)
        return self.driver.rooms.images.reserve(Image(id="", name=f"snapshot-{uuid.uuid4()}")).id

    def _is_stored(self, image_id: str) -> None:
        assert isinstance(self.driver, LibvirtDriver)
        assert self.driver.rooms.images.show(image_id).size > 0

    def test_user_data_that_cannot_be_is_refused_before_an_image_is_fetched(
        self, driver: LibvirtDriver, image: Image, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(driver.cache, "get", lambda *_, **__: pytest.fail("an image was fetched"))
        instance = self.instance(user_data="x" * (17 << 20))
        with pytest.raises(InvalidRequest, match="16 MiB"):
            driver.spawn(None, instance, image, [], None)
