"""The classic image API and its RBDDriver on a real Ceph cluster."""

from __future__ import annotations

import errno
import os
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from cowshed.config import Config, HostSection, RbdSection
from cowshed.disks import manifest
from cowshed.disks.rbd_bases import filling
from cowshed.errors import (
    Busy,
    DeadlineExceeded,
    DiskTooSmall,
    ImageRejected,
    NoSpace,
    NotFound,
    SnapshotNotFound,
    UnsupportedOperation,
)
from cowshed.imagebackend import Backend, RADOSClient, Rbd, RBDDriver, RBDImage, RBDVolumeProxy
from cowshed.model.disk import Encryption, EncryptionFormat
from cowshed.tools.rbd import Pool, RbdSink
from cowshed.units import MiB
from tests.ceph_node import Ceph

pytestmark = pytest.mark.timeout(180)  # the first test of a run starts the cluster
DATA = os.urandom(MiB)
SIZE = 8 * MiB
MAPPING = {"bus": "virtio", "dev": "vda", "type": "disk"}


@pytest.fixture
def backend(ceph: Ceph, rbd_pool: str, tmp_path: Path) -> Backend:
    section = RbdSection(pool=rbd_pool, ceph_conf=str(ceph.conf), keyring=str(ceph.keyring))
    return Backend(True, config=Config(host=HostSection(state=str(tmp_path)), rbd=section))


@pytest.fixture
def disk(backend: Backend) -> Iterator[Rbd]:
    made = backend.by_name(str(uuid.uuid4()), "disk", "rbd", MAPPING)
    assert isinstance(made, Rbd)
    yield made
    made._disk().delete()


@pytest.fixture
def driver(ceph: Ceph, rbd_pool: str) -> RBDDriver:
    return RBDDriver(rbd_pool, "admin", str(ceph.conf), 10)


@pytest.fixture
def images(ceph: Ceph, driver: RBDDriver, tmp_path: Path) -> str:
    """The image service's pool, with one raw image in it; its URL."""
    pool, name = ceph.make_pool(), str(uuid.uuid4())
    raw = tmp_path / "raw"
    raw.write_bytes(DATA)
    os.truncate(raw, SIZE)
    service = RBDDriver(pool, "admin", str(ceph.conf), 10)
    service.import_image(str(raw), name)
    service.create_snap(name, "snap", protect=True)
    return f"rbd://{driver.get_fsid()}/{pool}/{name}/snap"


def fetch(*args: Any, target: str, **named: Any) -> None:
    Path(target).write_bytes(DATA)
    os.truncate(target, SIZE)


def never(*args: Any, target: str, **named: Any) -> None:
    raise AssertionError("it is there; nothing is fetched")


def content(image: Any, tmp_path: Path) -> bytes:
    target = tmp_path / f"out-{uuid.uuid4()}"
    image.snapshot_extract(str(target), "raw")
    return target.read_bytes()


def test_an_image_is_brought_in_once_and_cloned_ever_after(disk: Rbd, backend: Backend, tmp_path: Path) -> None:
    name = f"image-{uuid.uuid4().hex}"
    with pytest.raises(DiskTooSmall):
        disk.cache(fetch, name, MiB, image_id="image")
    assert not disk.exists()
    disk.cache(fetch, name, 2 * SIZE, image_id="image")
    assert disk.exists()
    assert disk.get_disk_size("whatever") == 2 * SIZE
    assert content(disk, tmp_path) == DATA + bytes(2 * SIZE - len(DATA))
    second = backend.by_name(str(uuid.uuid4()), "disk", "rbd")
    assert isinstance(second, Rbd)
    second.cache(never, name, SIZE, image_id="image")
    assert second.driver.parent_info(second.rbd_name)[:2] == disk.driver.parent_info(disk.rbd_name)[:2]
    second.flatten()
    second.flatten()
    with pytest.raises(ImageRejected):
        second.driver.parent_info(second.rbd_name)
    second._disk().delete()
    again = backend.by_libvirt_path(None, disk.path)
    assert isinstance(again, Rbd)
    assert again.exists()
    assert (again.path, again.rbd_name, again.pool) == (disk.path, disk.rbd_name, disk.pool)


def test_a_call_back_that_clones_writes_no_base(disk: Rbd, images: str, tmp_path: Path) -> None:
    def clones(*args: Any, target: str, **named: Any) -> None:
        disk.clone(None, images)

    disk.cache(clones, f"image-{uuid.uuid4().hex}", 2 * SIZE, image_id="image")
    assert disk.get_disk_size(disk.path) == 2 * SIZE
    assert content(disk, tmp_path)[: len(DATA)] == DATA
    assert disk.driver.parent_info(disk.rbd_name)[2] == "snap"


def test_snapshots_of_a_resize(disk: Rbd, tmp_path: Path) -> None:
    disk.cache(fetch, f"image-{uuid.uuid4().hex}", SIZE, image_id="image")
    disk.create_snap("nova-resize")
    disk.resize_image(2 * SIZE)
    disk.rollback_to_snap("nova-resize")
    assert disk.get_disk_size(disk.path) == SIZE
    disk.remove_snap("nova-resize")
    disk.remove_snap("nova-resize", ignore_errors=True)
    with pytest.raises(SnapshotNotFound):
        disk.rollback_to_snap("nova-resize")


def test_a_direct_snapshot_and_its_clean_up(disk: Rbd, images: str, tmp_path: Path, backend: Backend) -> None:
    disk.clone(None, images)
    image_id = str(uuid.uuid4())
    url = disk.direct_snapshot(None, "snapshot", "raw", image_id, "")
    fsid, pool, name, snapshot = disk.driver.parse_url(url)
    assert (fsid, name, snapshot) == (disk.driver.get_fsid(), image_id, "snap")
    assert pool == disk.driver.parse_url(images)[1]
    assert disk.driver.is_cloneable({"url": url}, {"disk_format": "raw"})
    copy = backend.by_name(str(uuid.uuid4()), "disk", "rbd")
    copy.clone(None, url)
    assert content(copy, tmp_path) == content(disk, tmp_path)
    copy._disk().delete()
    disk.cleanup_direct_snapshot(None)
    disk.cleanup_direct_snapshot({"url": url}, also_destroy_volume=True)
    assert not disk.driver.exists(name, pool=pool)
    disk.cleanup_direct_snapshot({"url": url}, also_destroy_volume=True, ignore_errors=True)


def test_a_disk_without_an_image_pool_makes_no_direct_snapshot(disk: Rbd) -> None:
    disk.cache(fetch, f"image-{uuid.uuid4().hex}", SIZE, image_id="image")
    with pytest.raises(ImageRejected):
        disk.direct_snapshot(None, "snapshot", "raw", str(uuid.uuid4()), "")
    assert list(disk._snapshotting().snapshots()) == []


def test_clones_that_cannot_be(disk: Rbd, images: str) -> None:
    for url in (
        images.replace("/snap", "/other"),
        images.replace(disk.driver.get_fsid(), str(uuid.uuid4())),
        "no-image",
    ):
        with pytest.raises(ImageRejected):
            disk.clone(None, url)
    assert not disk.exists()


def test_a_file_is_imported_in_place_of_an_older_one(disk: Rbd, tmp_path: Path, backend: Backend) -> None:
    for byte in (b"1", b"2"):
        file = tmp_path / "disk.config"
        file.write_bytes(byte * MiB)
        disk.import_file(disk._uuid, str(file), "disk.config")
        assert file.read_bytes() == byte * MiB
        made = backend.by_name(disk._uuid, "disk.config", "rbd")
        assert content(made, tmp_path) == byte * MiB
    made._disk().delete()


def _imported(disk: Rbd, file: Path, byte: bytes) -> None:
    file.write_bytes(byte * MiB)
    disk.import_file(disk._uuid, str(file), disk.disk_name or "")


def test_an_import_that_breaks_leaves_the_older_one(
    disk: Rbd, tmp_path: Path, driver: RBDDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(sink: Any, offset: int, data: bytes) -> None:
        sink._slots.acquire()
        sink._flying += 1
        sink._done(-errno.ENOSPC, 0)

    def lost(pool: Pool, image: str, name: str) -> None:
        if image.startswith("cowshed-part_"):  # the older one has given its name away
            raise DeadlineExceeded(what="an answer", seconds=1)
        rename(pool, image, name)

    rename = Pool.rename
    _imported(disk, tmp_path / "file", b"1")
    for owner, name, broken, error in (
        (RbdSink, "_send", full, NoSpace),
        (Pool, "rename", lost, DeadlineExceeded),
    ):
        with monkeypatch.context() as patch, pytest.raises(error):
            patch.setattr(owner, name, broken)
            _imported(disk, tmp_path / "file", b"2")
        assert content(disk, tmp_path) == b"1" * MiB
        assert [image for image in driver._pool().images() if disk._uuid in image] == [disk.rbd_name]
        assert list(manifest.load(disk._disk().directory).disks) == [disk.disk_name]


def test_an_import_that_was_killed_lets_the_next_one_bring_the_older_one_back(
    disk: Rbd, tmp_path: Path, driver: RBDDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed between the two renames, and where the older one is still to be removed."""
    aside = f"{disk.disk_name}.was-rbd"
    for byte in (b"1", b"2"):
        _imported(disk, tmp_path / "file", byte)
        if byte == b"1":
            disk._disk()._become(disk._place().disk(disk._uuid, aside))  # type: ignore[attr-defined]
        else:
            disk._place().disk(disk._uuid, aside).create(MiB)
        with monkeypatch.context() as patch, pytest.raises(NoSpace):
            patch.setattr(Pool, "check_space", _no_space)
            _imported(disk, tmp_path / "file", b"3")
        assert content(disk, tmp_path) == byte * MiB
        assert [image for image in driver._pool().images() if disk._uuid in image] == [disk.rbd_name]


def test_readers_give_what_a_killed_import_has_left_its_name_back(disk: Rbd, tmp_path: Path) -> None:
    """Not while an import goes on, which is about to give the name away."""
    _imported(disk, tmp_path / "file", b"1")
    place, there = disk._place(), disk._disk()
    aside = place.disk(disk._uuid, f"{disk.disk_name}.was-rbd")
    for read in (disk.exists, there.info, lambda: content(disk, tmp_path) == b"1" * MiB, there.source):
        there._become(aside)  # type: ignore[attr-defined]
        with filling(place.pool, disk._uuid, "a disk"):  # type: ignore[attr-defined]
            assert not disk.exists()
        assert read()
        assert not aside.exists()
    there._become(aside)  # type: ignore[attr-defined]
    with manifest.editing(there.directory) as disks:  # type: ignore[attr-defined]
        own = there._new_location()  # type: ignore[attr-defined]
        disks[there.name] = replace(disks[aside.name], name=there.name, location=own)  # type: ignore[attr-defined]
    assert disk.exists()
    assert list(manifest.load(there.directory).disks) == [there.name]  # type: ignore[attr-defined]


def test_what_was_replaced_does_not_come_back_when_the_disk_is_deleted(
    disk: Rbd, tmp_path: Path, driver: RBDDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It could not be removed when it was replaced."""

    def busy(pool: Pool, image: str, **_: Any) -> None:
        raise Busy(what=image, holder="a client")

    _imported(disk, tmp_path / "file", b"1")
    with monkeypatch.context() as patch:
        patch.setattr(Pool, "remove", busy)
        _imported(disk, tmp_path / "file", b"2")
    assert content(disk, tmp_path) == b"2" * MiB
    assert len(manifest.load(disk._disk().directory).disks) == 2  # type: ignore[attr-defined]
    disk._disk().delete()
    assert not disk.exists()
    assert not [image for image in driver._pool().images() if disk._uuid in image]


def _no_space(pool: Pool, needed: int) -> None:
    raise NoSpace(place="the pool", needed=needed, free=0)


def test_an_import_does_not_take_a_disk_from_a_guest_and_its_cipher_from_a_disk(
    disk: Rbd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cowshed.disks.rbd_replacing.WATCHED", 0.0)
    _imported(disk, tmp_path / "file", b"1")
    with RBDVolumeProxy(disk.driver, disk.rbd_name), pytest.raises(Busy):
        _imported(disk, tmp_path / "file", b"2")
    assert content(disk, tmp_path) == b"1" * MiB
    with manifest.editing(disk._disk().directory) as disks:
        entry = disks[disk.disk_name or ""]
        disks[entry.name] = replace(entry, encryption=Encryption(EncryptionFormat.LUKS, str(uuid.uuid4())))
    with pytest.raises(UnsupportedOperation):
        _imported(disk, tmp_path / "file", b"2")
    assert disk.exists()


def test_what_libvirt_and_others_are_told(disk: Rbd) -> None:
    disk.cache(fetch, f"image-{uuid.uuid4().hex}", SIZE, image_id="image")
    info = disk.libvirt_info("writeback", {"quota:disk_read_iops_sec": "10"})
    assert (info.source_type, info.source_protocol, info.source_name) == (
        "network",
        "rbd",
        f"{disk.pool}/{disk.rbd_name}",
    )
    assert info.auth_username == "admin"
    assert info.auth_secret_type == "ceph"
    element = ET.fromstring(info.to_xml())
    source = element.find("source")
    assert element.get("type") == "network"
    assert source is not None
    assert len(source.findall("host")) == len(info.source_hosts) > 0
    model = disk.get_model(None)
    assert isinstance(model, RBDImage)
    assert (model.name, model.pool) == (disk.rbd_name, disk.pool)
    assert model.password
    assert model.password not in repr(model)
    assert len(model.servers) == len(info.source_hosts)


def test_the_configured_keyring_is_the_drivers_too(ceph: Ceph, rbd_pool: str, tmp_path: Path) -> None:
    """The cluster's configuration knows nothing of this user's key."""
    who = f"cow-{uuid.uuid4().hex[:8]}"
    keyring = ceph.make_user(who, mon="profile rbd", mgr="profile rbd", osd=f"profile rbd pool={rbd_pool}")
    elsewhere = keyring.rename(tmp_path / "key")
    section = RbdSection(pool=rbd_pool, user=who, ceph_conf=str(ceph.conf), keyring=str(elsewhere))
    backend = Backend(True, config=Config(host=HostSection(state=str(tmp_path)), rbd=section))
    disk = backend.by_name(str(uuid.uuid4()), "disk", "rbd", MAPPING)
    assert isinstance(disk, Rbd)
    disk.cache(fetch, f"image-{uuid.uuid4().hex}", SIZE, image_id="image")
    model = disk.get_model(None)
    assert isinstance(model, RBDImage)
    assert model.password and model.password in elsewhere.read_text()
    assert disk.driver.cluster is disk._place().cluster  # one connection, not two
    disk._disk().delete()


# --- the driver -----------------------------------------------------------------------------------


def test_the_driver_imports_exports_and_removes(driver: RBDDriver, tmp_path: Path) -> None:
    raw, name = tmp_path / "raw", f"plain-{uuid.uuid4().hex}"
    raw.write_bytes(DATA)
    os.truncate(raw, SIZE)
    assert not driver.exists(name)
    driver.import_image(str(raw), name)
    assert driver.exists(name)
    assert not driver.exists(name, snapshot="one")
    assert driver.size(name) == SIZE
    driver.resize(name, 2 * SIZE)
    driver.create_snap(name, "one", protect=True)
    assert driver.exists(name, snapshot="one")
    driver.export_image(str(tmp_path / "out"), name, "one")
    assert (tmp_path / "out").read_bytes() == DATA + bytes(2 * SIZE - len(DATA))
    with RBDVolumeProxy(driver, name, read_only=True) as volume:
        assert volume.size() == 2 * SIZE
        assert volume.read(0, 16) == DATA[:16]
    with RADOSClient(driver) as client:
        assert client.features > 0
        assert client.ioctx.get_pool_id() >= 0
    driver.remove_snap(name, "one")  # protected: stays, with a warning
    assert driver.exists(name, snapshot="one")
    driver.remove_image(name)  # has snapshots: stays, with a word in the log
    assert driver.exists(name)
    with pytest.raises(SnapshotNotFound):
        driver.rollback_to_snap(name, "two")
    driver.rollback_to_snap(name, "one")
    driver.remove_snap(name, "one", force=True)
    driver.remove_snap(name, "one", ignore_errors=True)
    driver.create_snap(name, "nova-resize")
    driver.destroy_volume(name)
    driver.destroy_volume(name)
    driver.remove_image(name)
    assert not driver.exists(name)
    with pytest.raises(NotFound):
        driver.size(name)


def test_an_import_whose_last_write_fails_is_no_import(
    driver: RBDDriver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(sink: Any, offset: int, data: bytes) -> None:
        """The cluster refuses when nobody asks any more."""
        sink._slots.acquire()
        sink._flying += 1
        sink._done(-errno.ENOSPC, 0)

    monkeypatch.setattr(RbdSink, "_send", full)
    raw, name = tmp_path / "raw", uuid.uuid4().hex
    raw.write_bytes(DATA)
    with pytest.raises(NoSpace):
        driver.import_image(str(raw), name)
    assert not driver.exists(name)


def test_the_driver_knows_its_cluster(driver: RBDDriver, ceph: Ceph) -> None:
    assert driver.get_fsid() == ceph.fsid
    hosts, ports = driver.get_mon_addrs()
    assert hosts
    assert len(hosts) == len(ports)
    pool = driver.get_pool_info()
    assert 0 <= pool["free"] <= pool["total"]
    for url in ("http://a/b", "rbd://", "rbd://a/b/c", "rbd://a//c/d", "rbd://a/b/c/d/e/f"):
        with pytest.raises(ImageRejected):
            driver.parse_url(url)
    assert driver.parse_url("rbd://f/p%20q/i/s") == ["f", "p q", "i", "s"]


def test_all_images_of_an_instance_go(driver: RBDDriver, tmp_path: Path) -> None:
    raw, instance = tmp_path / "raw", str(uuid.uuid4())
    raw.write_bytes(bytes(MiB))
    names = [f"{instance}_disk", f"{instance}_disk.local", f"{uuid.uuid4()}_disk"]
    for name in names:
        driver.import_image(str(raw), name)
    driver.cleanup_volumes(lambda name: name.startswith(instance))
    assert [driver.exists(name) for name in names] == [False, False, True]
    driver.destroy_volume(names[2])
