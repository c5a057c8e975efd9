"""One guest whose root disk grows under it, is rolled back, and moves from backend to backend; it counts its boots there."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed.config import RbdSection
from cowshed.disks import manifest
from cowshed.errors import InvalidState
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.units import MiB
from tests.ceph_node import Ceph
from tests.vm.machines import Machines, machines

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def house(libvirt_uri: str, guest_dir: Path, ceph: Ceph, rbd_pool: str) -> Iterator[Machines]:
    section = RbdSection(pool=rbd_pool, ceph_conf=str(ceph.conf), keyring=str(ceph.keyring))
    with machines(libvirt_uri, guest_dir, rbd=section) as made:
        yield made


def booted(house: Machines, instance: Instance, times: int, before: int) -> int:
    """It says that it has booted ``times`` from this disk, behind ``before`` bytes of log; returns the log's end."""
    house.wait(instance, rf"(?s)\A.{{{before},}}?cowshed-guest: boot {times}\b.*?cowshed-guest: up")
    return len(house.log(instance))


def off(house: Machines, instance: Instance) -> None:
    house.driver.power_off(instance, timeout=60, retry_interval=5)
    assert house.state_of(instance) == PowerState.SHUTDOWN


def on(house: Machines, instance: Instance) -> None:
    house.driver.power_on(None, instance, [])


def source(house: Machines, instance: Instance) -> tuple[str, str]:
    """(type, format) of the root disk of the running guest."""
    found = ET.fromstring(house.driver.rooms.hypervisor.guest(instance.uuid).xml()).find("devices/disk")
    driver = found.find("driver") if found is not None else None
    assert found is not None
    assert driver is not None
    return str(found.get("type")), str(driver.get("type"))


def test_the_guest_keeps_its_data_wherever_its_disk_goes(
    house: Machines, tiny: Image, ceph: Ceph, rbd_pool: str
) -> None:
    driver = house.driver
    instance = house.spawn(tiny, backend="qcow2")
    end = booted(house, instance, 1, 0)

    # It grows under the guest; what needs the disk alone is refused meanwhile.
    driver.resize_disk(instance, 80 * MiB)
    house.wait(instance, rf"disk vda {80 * MiB} rw")
    with pytest.raises(InvalidState):
        driver.move_disk(instance, "raw")
    off(house, instance)

    driver.take_disk_snapshot(instance, "once")
    on(house, instance)
    end = booted(house, instance, 2, end)
    off(house, instance)
    driver.roll_back_disks(instance, "once")
    driver.remove_disk_snapshot(instance, "once")

    times = 1
    kinds = {
        "raw": ("file", "raw"),
        "ploop": ("file", "raw"),
        "rbd": ("network", "raw"),
        "qcow2": ("file", "qcow2"),
    }
    for to, kind in kinds.items():
        assert driver.move_disk(instance, to)
        on(house, instance)
        times += 1
        end = booted(house, instance, times, end)
        assert source(house, instance) == kind
        if to == "rbd":
            driver.resize_disk(instance, 96 * MiB)
            house.wait(instance, rf"disk vda {96 * MiB} rw")
        off(house, instance)
    left = manifest.load(driver.rooms.directory(instance.uuid).path).disks
    assert [(one.name, one.backend, one.virtual_size) for one in left.values()] == [("disk", "qcow2", 96 * MiB)]
    assert not [name for name in ceph.images(rbd_pool) if instance.uuid in name]


def test_a_guest_boots_from_a_clone_and_leaves_nothing_in_the_pool(house: Machines, ceph: Ceph, rbd_pool: str) -> None:
    image = house.image()
    first, second = (house.spawn(image, backend="rbd") for _ in range(2))
    for instance in (first, second):
        booted(house, instance, 1, 0)
    assert not [one for one in house.driver.cache.bases() if one.base.image_id == image.id]
    assert [kept.users for _, kept in house.driver.kept_bases() if kept.base.image_id == image.id] == [2]
    for instance in (first, second):
        house.driver.destroy(None, instance, [])
        house.assert_nothing_left(instance)
    assert not [name for name in ceph.images(rbd_pool) if first.uuid in name or second.uuid in name]
    assert [(one.place, one.size > 0) for one in house.driver.sweep_cache(all_unused=True)][-1] == ("rbd", True)
    assert not [kept for _, kept in house.driver.kept_bases() if kept.base.image_id == image.id]
