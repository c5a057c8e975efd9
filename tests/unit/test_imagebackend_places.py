"""The classic image API on ploop directories; names and paths of volumes and RBD images."""

from __future__ import annotations

import os
import uuid
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from cowshed.config import Config, DisksSection, HostSection, LvmSection, RbdSection
from cowshed.disks import manifest
from cowshed.errors import DataCorrupt, DiskTooSmall, InvalidRequest
from cowshed.imagebackend import Backend, Lvm, Ploop, Rbd, RBDDriver
from cowshed.model.disk import DiskFormat
from cowshed.tools import ploop
from cowshed.tools.transfer import to_ploop
from cowshed.tools.transfer.layers import RawLayer
from cowshed.units import MiB

DATA = bytes(range(255, -1, -1)) * 2048  # 512 KiB that are no image format
MAPPING = {"bus": "virtio", "dev": "vda", "type": "disk"}
FORMATS = pytest.mark.parametrize("format", ["raw", "expanded"])


@dataclass(frozen=True)
class Server:
    uuid: str


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(
        host=HostSection(state=str(tmp_path)),
        lvm=LvmSection(volume_group="cow-shed"),
        rbd=RbdSection(pool="vms", user="cow", ceph_conf="/etc/ceph/other.conf"),
    )


@pytest.fixture
def server() -> Server:
    return Server(str(uuid.uuid4()))


def fetch(*args: Any, target: str, **named: Any) -> None:
    Path(target).write_bytes(DATA)
    os.truncate(target, MiB)


def content(image: Any, tmp_path: Path) -> bytes:
    target = tmp_path / f"out-{uuid.uuid4()}"
    image.snapshot_extract(str(target), "raw")
    return target.read_bytes()


# --- ploop ----------------------------------------------------------------------------------------


@FORMATS
def test_a_ploop_disk_through_its_life(config: Config, server: Server, format: str, tmp_path: Path) -> None:
    config = replace(config, disks=DisksSection(backend="ploop", ploop_format=format))
    backend = Backend(True, config=config)
    assert backend.backend() is Ploop
    disk = backend.by_name(server, "disk", disk_info_mapping=MAPPING)
    assert isinstance(disk, Ploop)
    assert (disk.pcs_format, disk.is_file_in_instance_path(), disk.disk_info_path) == (format, False, None)
    assert not disk.exists()
    with pytest.raises(DiskTooSmall):
        disk.cache(fetch, "image", MiB // 2, image_id="image")
    assert not disk.exists()
    disk.cache(fetch, "image", 4 * MiB, image_id="image")
    assert sorted(os.listdir(disk.path)) == [ploop.FILE, ploop.DATA]
    assert disk.get_disk_size(disk.path) == 4 * MiB
    assert content(disk, tmp_path) == DATA + bytes(4 * MiB - len(DATA))
    disk.resize_image(8 * MiB)
    disk.cache(None, "image", 8 * MiB, image_id="image")  # type: ignore[arg-type] - never called
    again = backend.by_libvirt_path(server, disk.path)
    assert isinstance(again, Ploop)
    assert content(again, tmp_path) == DATA + bytes(8 * MiB - len(DATA))
    model = disk.get_model(None)
    assert (model.path, model.format) == (disk.path, "ploop")  # type: ignore[attr-defined]
    element = ET.fromstring(disk.libvirt_info("none", {}).to_xml())
    driver, source = element.find("driver"), element.find("source")
    assert driver is not None
    assert source is not None
    assert (driver.get("type"), source.get("file")) == ("raw" if format == "raw" else "ploop", f"{disk.path}/root.hds")


def test_a_ploop_disk_is_generated_in_place(config: Config, server: Server, tmp_path: Path) -> None:
    disk = Backend(True, config=config).by_name(server, "disk.local", "ploop")
    disk.cache(fetch, "ephemeral_1_abcdef0", 2 * MiB, ephemeral_size=1, safe=True)
    assert content(disk, tmp_path) == DATA + bytes(2 * MiB - len(DATA))
    assert not (tmp_path / "cache" / "ephemeral_1_abcdef0").exists()


@FORMATS
def test_a_ploop_directory_of_others_is_taken_as_its_descriptor_says(
    config: Config, server: Server, format: str, tmp_path: Path
) -> None:
    told = replace(config, disks=DisksSection(ploop_format=format))
    made = Backend(True, config=told).by_name(server, "disk", "ploop")
    made.cache(fetch, "image", 2 * MiB, image_id="image")
    place = Path(made.path)
    manifest.forget(place.parent, "disk")
    found = Backend(True, config=config).by_libvirt_path(server, made.path)
    assert isinstance(found, Ploop)
    assert found.get_disk_size(found.path) == 2 * MiB
    assert content(found, tmp_path) == DATA + bytes(2 * MiB - len(DATA))
    assert manifest.require(place.parent, "disk").format == (DiskFormat.RAW if format == "raw" else DiskFormat.PLOOP)
    manifest.forget(place.parent, "disk")
    (place / ploop.FILE).write_text("<a>")
    with pytest.raises(DataCorrupt):
        found.get_disk_size(found.path)


# --- paths ----------------------------------------------------------------------------------------


def test_volumes_have_paths_that_lead_back(config: Config, server: Server) -> None:
    backend = Backend(True, config=config)
    disk = backend.by_name(server, "disk.eph_0", "lvm")
    assert isinstance(disk, Lvm)
    assert disk.path == f"/dev/cow-shed/{server.uuid}_disk.eph__0"
    assert (disk.vg, disk.lv, disk.lv_path) == ("cow-shed", f"{server.uuid}_disk.eph__0", disk.path)
    assert (disk.source_type, disk.driver_format, disk.is_block_dev) == ("block", "raw", True)
    assert Lvm.escape("a_b") == "a__b"
    mapped = server.uuid.replace("-", "--")
    for path in (
        disk.path,
        f"/dev/mapper/cow--shed-{mapped}_disk.eph__0",
        f"/dev/mapper/{server.uuid}_disk.eph__0-dmcrypt",
    ):
        again = backend.by_libvirt_path(server, path)
        assert isinstance(again, Lvm)
        assert (again._uuid, again.disk_name, again.lv) == (server.uuid, "disk.eph_0", disk.lv)


@pytest.mark.parametrize("path", ["/dev/sda", "/dev/cow-shed/other", "/dev/mapper/control", "/dev/a/b/c"])
def test_devices_that_are_no_volumes_of_ours_are_refused(config: Config, server: Server, path: str) -> None:
    with pytest.raises(InvalidRequest):
        Backend(True, config=config).by_libvirt_path(server, path)


def test_rbd_images_have_paths_that_lead_back(config: Config, server: Server) -> None:
    backend = Backend(True, config=config)
    disk = backend.by_name(server, "disk", "rbd")
    assert isinstance(disk, Rbd)
    assert disk.path == f"rbd:vms/{server.uuid}_disk:id=cow:conf=/etc/ceph/other.conf"
    assert (disk.pool, disk.rbd_name, disk.rbd_user) == ("vms", f"{server.uuid}_disk", "cow")
    assert (disk.SUPPORTS_CLONE, disk.is_block_dev, disk.is_shared_block_storage()) == (True, False, True)
    for path in (disk.path, f"rbd:vms/{server.uuid}_disk"):
        again = backend.by_libvirt_path(server, path)
        assert isinstance(again, Rbd)
        assert (again.rbd_name, again.pool, again.disk_name) == (disk.rbd_name, "vms", "disk")


@pytest.mark.parametrize("path", ["rbd:", "rbd:vms", "rbd:vms/image", "rbd:other/{uuid}_disk"])
def test_rbd_paths_that_are_no_disks_of_ours_are_refused(config: Config, server: Server, path: str) -> None:
    with pytest.raises(InvalidRequest):
        Backend(True, config=config).by_libvirt_path(server, path.format(uuid=server.uuid))


def test_a_storage_that_is_not_configured_is_said_to_be_missing(tmp_path: Path, server: Server) -> None:
    backend = Backend(True, config=Config(host=HostSection(state=str(tmp_path))))
    for kind in ("lvm", "rbd"):
        with pytest.raises(InvalidRequest, match=f"no {kind} storage"):
            backend.by_name(server, "disk", kind).exists()


def test_the_arguments_of_ceph() -> None:
    assert RBDDriver("vms", "cow", "/etc/x.conf", 3).ceph_args() == ["--id", "cow", "--conf", "/etc/x.conf"]
    assert RBDDriver("vms", "", "", 3).ceph_args() == []


@FORMATS
def test_an_image_that_is_ploop_becomes_every_kind_of_disk(
    config: Config, server: Server, format: str, tmp_path: Path
) -> None:
    def fetches(*args: Any, target: str, **named: Any) -> None:
        source = tmp_path / "source"
        fetch(target=str(source))
        with source.open("rb") as file, open(target, "w+b") as image:
            to_ploop(RawLayer(file.fileno()), image.fileno(), 2 * MiB)

    backend = Backend(True, config=replace(config, disks=DisksSection(ploop_format=format)))
    for kind in ("ploop", "raw"):
        disk = backend.by_name(server, f"disk.{kind}", kind)
        disk.cache(fetches, "image", 4 * MiB, image_id="image")
        assert content(disk, tmp_path) == DATA + bytes(4 * MiB - len(DATA))
    with pytest.raises(InvalidRequest):
        backend.by_name(server, "disk.qcow2", "qcow2").cache(fetches, "image", 4 * MiB, image_id="image")
