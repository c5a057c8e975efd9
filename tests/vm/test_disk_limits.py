"""Limits and drive options of disks on real guests: what QEMU says of them, live and after a restart."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed.config import DisksSection, GuestSection
from cowshed.domain import read
from cowshed.errors import DataCorrupt, DiskNotFound, InvalidRequest
from cowshed.hypervisor import iotune
from cowshed.model.disk import CacheMode, IoTune
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.units import MiB
from tests.vm.machines import Machines, machines

SPECS = {
    "quota:disk_total_iops_sec": "700",
    "quota:disk_read_bytes_sec@swap": str(5 * MiB),
    "hw:disk_cache@swap": "directsync",
    "hw:disk_io@swap": "native",
    "hw:disk_iothreads": "2",
}
FLAVOR = Flavor(memory=160 * MiB, root=128 * MiB, ephemeral=16 * MiB, swap=16 * MiB, extra_specs=SPECS)


@pytest.fixture(scope="module")
def house(libvirt_uri: str, guest_dir: Path) -> Iterator[Machines]:
    with machines(libvirt_uri, guest_dir, guest=GuestSection(config_drive=False)) as made:
        yield made


@pytest.fixture(scope="module")
def tiny(house: Machines) -> Image:
    return house.image(properties={"hw_disk_discard": "ignore", "hw_disk_detect_zeroes": "on"})


def holds(house: Machines, instance: Instance, device: str) -> IoTune | None:
    """What QEMU itself says."""
    return iotune.limits(house.driver.rooms.hypervisor.guest(instance.uuid), device)


def test_limits_change_while_the_guest_runs_and_stay(house: Machines, tiny: Image) -> None:
    instance = house.spawn(tiny, flavor=FLAVOR)
    driver = house.driver
    assert holds(house, instance, "vda") == holds(house, instance, "vdb") == IoTune(total_iops_sec=700)
    assert holds(house, instance, "vdc") == IoTune(read_bytes_sec=5 * MiB)
    assert driver.disk_limits(instance)["disk.swap"] == IoTune(read_bytes_sec=5 * MiB)

    new = {
        "total_iops_sec": 500, "total_iops_sec_max": 900, "total_iops_sec_max_length": 3, "size_iops_sec": 4096,
        "read_bytes_sec": 10 * MiB, "write_bytes_sec": 20 * MiB, "write_bytes_sec_max": 30 * MiB,
    }  # fmt: skip
    assert driver.limit_disk(instance, "root", new) == IoTune(**new)
    expected = IoTune(**new, write_bytes_sec_max_length=1)  # a burst lasts a second unless more is said
    assert holds(house, instance, "vda") == expected
    assert holds(house, instance, "vdb") == IoTune(total_iops_sec=700)
    with pytest.raises(InvalidRequest, match="contradicts"):
        driver.limit_disk(instance, "root", {"read_iops_sec": 5})
    with pytest.raises(DiskNotFound, match="eph7"):
        driver.limit_disk(instance, "eph7", {"read_iops_sec": 5})
    assert holds(house, instance, "vda") == expected

    driver.limit_disk(instance, "swap", {}, clear=True)
    assert holds(house, instance, "vdc") is None
    group = {"group_name": "shared", "total_iops_sec": 300}
    driver.limit_disk(instance, "ephemeral", group, clear=True)
    driver.limit_disk(instance, "swap", group, clear=True)
    driver.limit_disk(instance, "swap", {"total_iops_sec": 250})
    for device in ("vdb", "vdc"):
        assert holds(house, instance, device) == IoTune(total_iops_sec=250, group_name="shared")

    driver.reboot(None, instance, [], "HARD")
    assert holds(house, instance, "vda") == expected
    for device in ("vdb", "vdc"):
        assert holds(house, instance, device) == IoTune(total_iops_sec=250, group_name="shared")
    driver.power_off(instance)
    driver.limit_disk(instance, "root", {"total_iops_sec": 0, "total_iops_sec_max": 0, "total_iops_sec_max_length": 0,
                                         "size_iops_sec": 0})  # fmt: skip
    driver.power_on(None, instance, [])
    assert holds(house, instance, "vda") == IoTune(
        read_bytes_sec=10 * MiB, write_bytes_sec=20 * MiB, write_bytes_sec_max=30 * MiB, write_bytes_sec_max_length=1
    )

    driver.suspend(None, instance)
    driver.limit_disk(instance, "root", {"total_iops_sec": 80}, clear=True)
    driver.resume(None, instance, [])
    assert holds(house, instance, "vda") == IoTune(total_iops_sec=80), "what was changed while it slept"

    record = house.state / "instances" / instance.uuid / "limits.json"
    kept = record.read_bytes()
    record.write_text("{}")
    with pytest.raises(DataCorrupt, match=r"limits\.json"):
        driver.disk_limits(instance)
    record.write_bytes(kept)


def test_every_disk_is_driven_as_it_was_asked_for(house: Machines, tiny: Image) -> None:
    instance = house.spawn(tiny, flavor=FLAVOR, config_drive=True)
    xml = house.driver.rooms.hypervisor.guest(instance.uuid).xml()
    disks = {one.target: one for one in read.disks(xml)}
    assert (disks["vda"].discard, disks["vda"].detect_zeroes, disks["vda"].cache) == ("ignore", "on", CacheMode.DEFAULT)
    assert (disks["vdc"].cache, disks["vdc"].io) == (CacheMode.DIRECTSYNC, "native")
    assert [disks[target].iothread for target in ("vda", "vdb", "vdc")] == [1, 2, 1]
    assert disks["vdd"].iotune is None
    house.wait(instance, "cowshed-guest: up")


@pytest.mark.parametrize(
    ("specs", "sentence"),
    [
        ({"hw:disk_io@swap": "native"}, "past the page cache"),
        ({"quota:disk_total_iops_sec@swop": "5"}, "no disk is called swop"),
        ({"quota:disk_group_name": "g", "quota:disk_total_iops_sec": "5", "quota:disk_group_name@swap": "g",
          "quota:disk_total_iops_sec@swap": "6"}, "their limits differ"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_before_anything_is_made(
    house: Machines, tiny: Image, specs: dict[str, str], sentence: str
) -> None:
    instance = house.instance(tiny, flavor=Flavor(memory=160 * MiB, swap=16 * MiB, extra_specs=specs))
    with pytest.raises(InvalidRequest, match=sentence):
        house.start(instance, tiny)
    house.assert_nothing_left(instance)


def test_the_host_may_give_every_instance_threads(libvirt_uri: str, guest_dir: Path) -> None:
    with machines(libvirt_uri, guest_dir, disks=DisksSection(iothreads=1)) as house:
        instance = house.spawn(house.image(properties={"hw_disk_bus": "scsi"}))
        xml = house.driver.rooms.hypervisor.guest(instance.uuid).xml()
        assert "<iothreads>1</iothreads>" in xml
        assert "<driver iothread='1'/>" in xml
        house.wait(instance, "cowshed-guest: up")
