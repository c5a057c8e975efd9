"""The classic image API on volumes."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from cowshed.config import Config, HostSection, LvmSection
from cowshed.errors import DiskTooSmall
from cowshed.imagebackend import Backend, LocalBlockImage, Lvm
from cowshed.units import MiB
from tests.lvm.conftest import GROUP, POOL

DATA = os.urandom(MiB)
SIZE = 8 * MiB
MAPPING = {"bus": "virtio", "dev": "vda", "type": "disk"}


def fetch(*args: Any, target: str, **named: Any) -> None:
    Path(target).write_bytes(DATA)
    os.truncate(target, SIZE)


def content(image: Any, tmp_path: Path) -> bytes:
    target = tmp_path / f"out-{uuid.uuid4()}"
    image.snapshot_extract(str(target), "raw")
    return target.read_bytes()


@pytest.mark.parametrize("pool", ["", POOL], ids=["thick", "thin"])
def test_a_volume_through_its_life(tmp_path: Path, pool: str) -> None:
    section = LvmSection(volume_group=GROUP, thin_pool=pool, clear="none")
    backend = Backend(True, config=Config(host=HostSection(state=str(tmp_path)), lvm=section))
    disk = backend.by_name(str(uuid.uuid4()), "disk", "lvm", MAPPING)
    assert isinstance(disk, Lvm)
    name = f"image-{uuid.uuid4().hex}"
    assert (disk.sparse, disk.exists()) == (bool(pool), False)
    with pytest.raises(DiskTooSmall):
        disk.cache(fetch, name, MiB, image_id="image")
    assert not disk.exists()
    disk.cache(fetch, name, 12 * MiB, image_id="image")
    assert disk.get_disk_size(disk.path) == 12 * MiB
    assert content(disk, tmp_path) == DATA + bytes(12 * MiB - len(DATA))
    disk.create_snap("nova-resize")
    disk.resize_image(16 * MiB)
    if disk._snapshots_are_instant():
        disk.rollback_to_snap("nova-resize")
        assert disk.get_disk_size(disk.path) == 12 * MiB
    again = backend.by_libvirt_path(None, disk.path)
    assert isinstance(again, Lvm)
    assert again.exists()
    assert (again.vg, again.lv) == (GROUP, disk.lv)
    model = disk.get_model(None)
    assert isinstance(model, LocalBlockImage)
    assert model.path == disk.path
    element = ET.fromstring(disk.libvirt_info("none", {}).to_xml())
    source = element.find("source")
    assert source is not None
    assert (element.get("type"), source.get("dev")) == ("block", disk.path)
    disk._disk().delete()
    assert not disk.exists()


def test_an_ephemeral_volume_is_made_on_the_device_and_goes_when_that_fails(tmp_path: Path) -> None:
    section = LvmSection(volume_group=GROUP, clear="none")
    backend = Backend(True, config=Config(host=HostSection(state=str(tmp_path)), lvm=section))
    disk = backend.by_name(str(uuid.uuid4()), "disk.local", "lvm")
    targets: list[str] = []

    def fails(*args: Any, target: str, **named: Any) -> None:
        targets.append(target)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        disk.cache(fails, "ephemeral_1_abcdef0", 4 * MiB, ephemeral_size=1, safe=True)
    assert targets == [disk.path]
    assert not disk.exists()
    if os.geteuid() == 0:  # an ordinary user writes through what cowshed opens, not by the device's name

        def writes(*args: Any, target: str, **named: Any) -> None:
            with open(target, "r+b") as device:
                device.write(DATA)

        disk.cache(writes, "ephemeral_1_abcdef0", 4 * MiB, ephemeral_size=1, safe=True)
        assert content(disk, tmp_path) == DATA + bytes(4 * MiB - len(DATA))
        disk._disk().delete()
