"""The classic flows step by step, through the classic image API, on a real Glance and a real Ceph."""

from __future__ import annotations

import hashlib
import io
import os
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import Config, HostSection, ImagesSection, RbdSection
from cowshed.errors import CowshedError, ImageNotFound, NameTaken
from cowshed.imagebackend import Backend, Rbd
from cowshed.images.glance import GlanceService
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image, ImageStatus, Location
from cowshed.units import MiB
from tests.ceph_node import Ceph
from tests.glance_proxy import Proxy, proxy
from tests.glance_server import POOL, Glance

pytestmark = pytest.mark.timeout(240)  # the first test of a run starts the servers
ROOT = bytes(4096) + os.urandom(2 * MiB) + bytes(6 * MiB - 4096)
KERNEL, RAMDISK = b"MZ" + os.urandom(600 * 512 - 2), os.urandom(400 * 512)  # whole sectors: others are padded


def name_of(image: Image) -> str:
    """The classic name in the cache."""
    return hashlib.sha1(image.id.encode()).hexdigest()


class House:
    def __init__(self, glance: Glance, between: Proxy, state: Path, user: str = "cowshed", **sections: Any) -> None:
        self.service = GlanceService(glance.section(user, endpoints=(between.url,), store=sections.pop("store", "")))
        config = Config(
            host=HostSection(state=str(state)),
            images=ImagesSection(service="glance"),
            glance=self.service.client.section,
            **sections,
        )
        self.backend = Backend(True, config=config)
        self.between = between
        self.made: list[str] = []

    def upload(self, content: bytes, **fields: Any) -> Image:
        image = self.service.upload(Image(id="", name=f"classic-{uuid.uuid4().hex[:8]}", **fields), io.BytesIO(content))
        self.made.append(image.id)
        return image

    def fetch(self, *args: Any, target: str, image_id: str, **named: Any) -> None:
        """What a driver of the classic API passes to ``cache``: the download of the image service."""
        self.service.download(self.service.show(image_id), Path(target))

    def downloads(self) -> int:
        return self.between.asked("GET", "/file")

    def close(self) -> None:
        for image_id in reversed(self.made):
            try:
                self.service.delete(image_id)
            except ImageNotFound:
                continue
        self.service.close()


@pytest.fixture
def house(glance: Glance, tmp_path: Path) -> Iterator[House]:
    with proxy(glance.url) as between:
        found = House(glance, between, tmp_path / "state")
        yield found
        found.close()


def test_create_with_a_kernel_image(house: House, tmp_path: Path) -> None:
    """Create disks -> by_name -> cache -> create_image -> fetch -> Glance; the second boot downloads nothing."""
    kernel = house.upload(KERNEL, disk_format=DiskFormat.AKI)
    ramdisk = house.upload(RAMDISK, disk_format=DiskFormat.ARI)
    properties = {"kernel_id": kernel.id, "ramdisk_id": ramdisk.id}
    root = house.upload(ROOT, disk_format=DiskFormat.AMI, properties=properties)
    root = house.service.show(root.id)
    kernel, ramdisk = (house.service.show(root.properties[key]) for key in ("kernel_id", "ramdisk_id"))
    for boot in range(2):
        instance = str(uuid.uuid4())
        for name, image, content in (("kernel", kernel, KERNEL), ("ramdisk", ramdisk, RAMDISK)):
            made = house.backend.by_name(instance, name, "raw")
            made.cache(house.fetch, name_of(image), image_id=image.id)
            assert Path(made.path).read_bytes() == content
        disk = house.backend.by_name(instance, "disk", "qcow2")
        assert not disk.exists()
        disk.cache(house.fetch, name_of(root), 10 * MiB, image_id=root.id)
        assert disk.exists()
        assert disk.get_disk_size(disk.path) == 10 * MiB
        out = tmp_path / f"out-{boot}"
        disk.snapshot_extract(str(out), "raw")
        assert out.read_bytes() == ROOT.ljust(10 * MiB, b"\0")
        assert house.downloads() == 3
    again = house.backend.by_name(instance, "disk", "qcow2")
    again.cache(house.fetch, name_of(root), 10 * MiB, image_id=root.id)  # a restart of the same instance
    assert house.downloads() == 3


@pytest.fixture
def ceph_house(glance_ceph: Glance, ceph: Ceph, rbd_pool: str, tmp_path: Path) -> Iterator[House]:
    rbd = RbdSection(pool=rbd_pool, ceph_conf=str(ceph.conf), keyring=str(ceph.keyring), user=ceph.user)
    with proxy(glance_ceph.url) as between:
        found = House(glance_ceph, between, tmp_path / "state", "service", rbd=rbd, store="ceph")
        yield found
        found.close()


def cloned(house: House, image: Image) -> Rbd:
    """A root disk as a classic driver makes it: the fetch function clones."""
    disk = house.backend.by_name(str(uuid.uuid4()), "disk", "rbd")
    assert isinstance(disk, Rbd)

    def clone(*args: Any, target: str, **named: Any) -> None:
        disk.clone(None, image.id)

    disk.cache(clone, name_of(image), len(ROOT), image_id=image.id)
    return disk


def test_snapshot_of_an_instance_in_ceph(ceph_house: House, ceph: Ceph, tmp_path: Path) -> None:
    """Task states -> by_libvirt_path -> direct_snapshot -> RBDDriver -> location in Glance -> a clone of it."""
    house, states = ceph_house, []
    root = house.upload(ROOT)
    disk = cloned(house, root)
    assert disk.driver.parent_info(disk.rbd_name)[1] == root.id
    record = house.service.create(Image(id="", name=f"snapshot-{uuid.uuid4().hex[:8]}"))
    house.made.append(record.id)

    states.append("image_pending_upload")
    found = house.backend.by_libvirt_path(None, disk.path)
    assert isinstance(found, Rbd)
    url = found.direct_snapshot(None, "snap-of-web", "raw", record.id, root.id)
    states.append("image_uploading")
    assert tuple(found.driver.parse_url(url)) == (ceph.fsid, POOL, record.id, "snap")
    image = house.service.add_location(record, Location(url))
    assert (image.status, image.size) == (ImageStatus.ACTIVE, len(ROOT))
    assert states == ["image_pending_upload", "image_uploading"]
    second = cloned(house, image)
    assert second.driver.parent_info(second.rbd_name)[1] == record.id
    out = tmp_path / "out"
    second.snapshot_extract(str(out), "raw")
    assert out.read_bytes() == ROOT
    assert house.downloads() == 0
    for one in (second, disk):
        one._disk().delete()


def test_a_snapshot_that_glance_does_not_want_is_taken_back(ceph_house: House, ceph: Ceph) -> None:
    house = ceph_house
    root = house.upload(ROOT)
    disk = cloned(house, root)
    url = disk.direct_snapshot(None, "snap", "raw", record_id := str(uuid.uuid4()), root.id)
    with pytest.raises(CowshedError):
        house.service.add_location(Image(id=record_id), Location(url))  # deleted meanwhile
    with pytest.raises(NameTaken):
        house.service.add_location(root, Location(url))
    disk.cleanup_direct_snapshot({"url": url}, also_destroy_volume=True)
    assert record_id not in ceph.images(POOL)
    disk._disk().delete()
