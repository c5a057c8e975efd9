"""Disks that guests of this host could not open are refused before they are made. No libvirt."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cowshed.config import RbdSection
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import examine_storage, layout, moving, reachable
from cowshed.errors import UnsupportedOperation
from cowshed.model.disk import DiskFormat, ManifestDisk
from cowshed.model.host import HostCapabilities
from cowshed.model.image import Image
from cowshed.testing import MemoryCluster
from tests.unit.test_driver_provision import SIZE, config, instance

OLD, NEW = (9, 0, 0), (11, 6, 0)


def host(state: Path, *, namespace: str, libvirt: tuple[int, int, int]) -> Rooms:
    rooms = Rooms(replace(config(state), rbd=RbdSection(pool="vms", namespace=namespace)))
    rooms.__dict__["backends"] = {**rooms.backends, "rbd": MemoryCluster("rbd", instances=rooms.instances)}
    rooms.__dict__["capabilities"] = HostCapabilities(libvirt=libvirt)
    return rooms


def planned(rooms: Rooms, backend: str) -> list[str]:
    image = Image(id="image", name="debian", disk_format=DiskFormat.RAW, size=SIZE, virtual_size=SIZE)
    made = layout.plan(rooms, replace(instance(), backend=backend), image, None)
    return [one.spec.backend for one in made.disks]


def test_a_namespace_that_libvirt_does_not_know(tmp_path: Path) -> None:
    rooms = host(tmp_path, namespace="mine", libvirt=OLD)
    with pytest.raises(UnsupportedOperation, match=r"namespace mine needs libvirt 11\.6\.0, and this is 9\.0\.0"):
        planned(rooms, "rbd")
    assert "rbd" not in planned(rooms, "raw")
    (finding,) = examine_storage.reached(rooms)
    assert (finding.level, finding.subject) == ("error", "libvirt and rbd")


def test_no_disk_moves_to_where_its_guest_cannot_open_it(tmp_path: Path) -> None:
    rooms, who = host(tmp_path, namespace="mine", libvirt=OLD), instance()
    entry = ManifestDisk(name="disk", backend="raw", format=DiskFormat.RAW, location="disk", virtual_size=SIZE)
    with pytest.raises(UnsupportedOperation, match="namespace mine"):
        moving.check(rooms, who, entry, "rbd")


@pytest.mark.parametrize(("namespace", "libvirt"), [("", OLD), ("mine", NEW)])
def test_what_libvirt_knows_is_let_through(tmp_path: Path, namespace: str, libvirt: tuple[int, int, int]) -> None:
    rooms = host(tmp_path, namespace=namespace, libvirt=libvirt)
    assert planned(rooms, "rbd") == ["rbd"]
    assert examine_storage.reached(rooms) == []


def test_a_volume_in_a_namespace(tmp_path: Path) -> None:
    def volume(name: str) -> dict[str, object]:
        return {"driver_volume_type": "rbd", "data": {"name": name}}

    old, new = (host(tmp_path, namespace="", libvirt=version) for version in (OLD, NEW))
    with pytest.raises(UnsupportedOperation, match=r"vms/mine/data cannot be attached here: .* namespace mine"):
        reachable.check_volume(old, volume("vms/mine/data"))
    reachable.check_volume(old, volume("vms/data"))
    reachable.check_volume(new, volume("vms/mine/data"))
    reachable.check_volume(old, {"driver_volume_type": "nbd", "data": {"name": "a/b/c"}})
