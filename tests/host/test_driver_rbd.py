"""The driver's steps on a real Ceph cluster: one import for all hosts, clones in place, pools that change."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from cowshed.config import Config, GuestSection, HostSection, RbdSection
from cowshed.driver import LibvirtDriver
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import bases, locate, moving, shown, teardown
from cowshed.images import pull
from cowshed.model.disk import DiskFormat
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image, Location
from cowshed.units import MiB
from tests.ceph_node import Ceph
from tests.unit.test_driver_provision import instance, make, read, stored

pytestmark = pytest.mark.timeout(240)  # the first test of a run starts the cluster

SIZE = 16 * MiB


def host(state: Path, ceph: Ceph, pool: str) -> Rooms:
    section = RbdSection(pool=pool, ceph_conf=str(ceph.conf), keyring=str(ceph.keyring))
    return Rooms(Config(host=HostSection(state=str(state)), guest=GuestSection(config_drive=False), rbd=section))


@pytest.fixture
def pool(ceph: Ceph) -> str:
    return ceph.make_pool()


@pytest.fixture
def content(tmp_path: Path) -> Path:
    path = tmp_path / "debian.raw"
    path.write_bytes(os.urandom(3 * MiB) + bytes(SIZE - 3 * MiB))
    return path


def brought(rooms: Rooms, path: Path, *, identity: str = "") -> Image:
    found = pull.pull(rooms.images, str(path), name="debian", format=DiskFormat.RAW)
    return replace(found, id=identity) if identity else found


def test_an_image_is_imported_once_for_all_hosts(
    tmp_path: Path, ceph: Ceph, pool: str, content: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = host(tmp_path / "one", ceph, pool), host(tmp_path / "two", ceph, pool)
    image = brought(one, content)
    who, other = instance(flavor=Flavor(root=2 * SIZE)), instance(flavor=Flavor(root=SIZE))
    make(one, who, image)
    assert read(one, who, "disk", tmp_path) == stored(one, image) + bytes(SIZE)
    # The second host does not even have the image's bytes.
    make(two, other, image)
    assert read(two, other, "disk", tmp_path) == content.read_bytes()
    bases_there = [name for name in ceph.images(pool) if "base" in name]
    assert len(bases_there) == 1
    assert [base.users for _, base in LibvirtDriver(rooms=two).kept_bases()] == [2]
    assert one.cache.bases() == two.cache.bases() == []
    # No host removes what another stands on; when nobody does, it goes.
    teardown.delete_disks(one, who)
    assert LibvirtDriver(rooms=one).sweep_cache(all_unused=True) == []
    teardown.delete_disks(two, other)
    assert [gone.place for gone in LibvirtDriver(rooms=one).sweep_cache(all_unused=True)] == ["rbd"]
    assert _left(ceph, pool) == []


def _left(ceph: Ceph, pool: str) -> list[str]:
    """What is in the pool when the cluster has done what it does by itself."""
    deadline = time.monotonic() + 30
    while (left := ceph.images(pool)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return left


def test_an_image_in_the_cluster_is_cloned_although_a_base_lies_in_the_cache(
    tmp_path: Path, ceph: Ceph, pool: str, content: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rooms, images = host(tmp_path / "state", ceph, pool), ceph.make_pool()
    image = brought(rooms, content)
    bases.cached(rooms, rooms.backends["raw"], image)
    ceph.rbd("import", content, f"{images}/{image.id}")
    ceph.rbd("snap", "create", f"{images}/{image.id}@snap")
    location = Location(f"rbd://{ceph.fsid}/{images}/{image.id}/snap")
    monkeypatch.setattr(type(rooms.images), "locations", lambda self, image: [location])
    who = instance(flavor=Flavor(root=2 * SIZE))
    make(rooms, who, image)
    (made,) = ceph.images(pool)
    parent = ceph.rbd("info", "--format", "json", f"{pool}/{made}")["parent"]
    assert (parent["pool"], parent["image"], parent["snapshot"]) == (images, image.id, "snap")
    assert read(rooms, who, "disk", tmp_path) == content.read_bytes() + bytes(SIZE)
    teardown.delete_disks(rooms, who)
    assert _left(ceph, pool) == []


def test_another_pool_in_the_configuration_breaks_no_instance(
    tmp_path: Path, ceph: Ceph, pool: str, content: Path
) -> None:
    before = host(tmp_path / "state", ceph, pool)
    image = brought(before, content)
    who = instance(flavor=Flavor(root=SIZE))
    make(before, who, image)
    other = ceph.make_pool()
    after = host(tmp_path / "state", ceph, other)
    (disk,) = shown.attached(after, who)
    assert disk.source.name == f"{pool}/{who.uuid}_disk"
    ((_, handle),) = locate.disks(after, who.uuid)
    handle.resize(2 * SIZE)
    assert read(after, who, "disk", tmp_path) == content.read_bytes() + bytes(SIZE)
    moving.settle(after, who)
    teardown.delete_disks(after, who)
    assert ceph.images(other) == []
    assert [name for name in ceph.images(pool) if who.uuid in name] == []
