"""Buses and names: chosen from the image and the host, refused before anything is made."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cowshed.config import DisksSection, GuestSection
from cowshed.domain import naming
from cowshed.errors import InvalidRequest, NameTaken, UnsupportedOperation
from cowshed.model.disk import Bus, Device
from cowshed.model.image import Image


def buses(**properties: str) -> naming.Buses:
    return naming.buses(Image(id="x", properties=properties), disks=DisksSection(), guest=GuestSection())


@pytest.mark.parametrize(
    ("properties", "root", "cdrom", "config"),
    [
        ({}, Bus.VIRTIO, Bus.SATA, (Bus.VIRTIO, Device.DISK)),
        ({"hw_machine_type": "pc"}, Bus.VIRTIO, Bus.IDE, (Bus.VIRTIO, Device.DISK)),
        ({"hw_machine_type": "pc-i440fx-7.2", "hw_disk_bus": "ide"}, Bus.IDE, Bus.IDE, (Bus.IDE, Device.CDROM)),
        ({"hw_disk_bus": "scsi"}, Bus.SCSI, Bus.SCSI, (Bus.SCSI, Device.CDROM)),
        ({"hw_disk_bus": "sata"}, Bus.SATA, Bus.SATA, (Bus.SATA, Device.CDROM)),
        ({"hw_disk_bus": "usb"}, Bus.USB, Bus.SATA, (Bus.USB, Device.CDROM)),
        ({"hw_cdrom_bus": "scsi"}, Bus.VIRTIO, Bus.SCSI, (Bus.VIRTIO, Device.DISK)),
    ],
)
def test_buses(properties: dict[str, str], root: Bus, cdrom: Bus, config: tuple[Bus, Device]) -> None:
    found = buses(**properties)
    assert found.of("disk") == (root, Device.DISK)
    assert found.of("disk.cdrom", Device.CDROM) == (cdrom, Device.CDROM)
    assert found.of("disk.config") == config
    assert found.of("floppy", Device.FLOPPY) == (Bus.FDC, Device.FLOPPY)


@pytest.mark.parametrize(
    ("properties", "sentence", "hint"),
    [
        ({"hw_disk_bus": "ide"}, "hw_disk_bus: a q35 machine has no IDE", "sata"),
        ({"hw_cdrom_bus": "ide"}, "hw_cdrom_bus: a q35 machine has no IDE", "sata"),
        ({"hw_cdrom_bus": "virtio"}, "no virtio cdroms", "scsi"),
        ({"hw_disk_bus": "xen"}, "hw_disk_bus: 'xen' is not known", "virtio"),
    ],
)
def test_impossible_buses_are_refused_with_a_way_out(properties: dict[str, str], sentence: str, hint: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence) as caught:
        buses(**properties)
    assert hint in (caught.value.hint or "")


def test_the_hosts_default_is_checked_as_well() -> None:
    with pytest.raises(InvalidRequest, match="no IDE"):
        naming.buses(Image(id="x"), disks=DisksSection(bus="ide"), guest=GuestSection())


@pytest.mark.parametrize("name", ["microvm", "virt", "isapc", ""])
def test_unknown_machines_are_refused(name: str) -> None:
    with pytest.raises(UnsupportedOperation):
        naming.machine(name)


def test_names_are_counted_up_and_never_given_twice() -> None:
    names = naming.Names([("vdb", Bus.VIRTIO)])
    assert [names.take(Bus.VIRTIO) for _ in range(3)] == ["vda", "vdc", "vdd"]
    assert [names.take(bus) for bus in (Bus.SATA, Bus.SCSI, Bus.USB, Bus.IDE, Bus.FDC)] == [
        "sda", "sdb", "sdc", "hda", "fda",
    ]  # fmt: skip


def test_a_wanted_name_is_given_or_refused() -> None:
    names = naming.Names()
    assert names.take(Bus.VIRTIO, "/dev/vdf") == "vdf"
    with pytest.raises(NameTaken):
        names.take(Bus.VIRTIO, "vdf")
    for bus, wanted in (
        (Bus.VIRTIO, "sda"),
        (Bus.VIRTIO, "vd"),
        (Bus.VIRTIO, "vdA"),
        (Bus.SCSI, "sd1"),
        (Bus.IDE, "hde"),
    ):
        with pytest.raises(InvalidRequest):
            names.take(bus, wanted)


@pytest.mark.parametrize(("bus", "limit"), [(Bus.IDE, 4), (Bus.FDC, 2), (Bus.VIRTIO, 26)])
def test_a_full_bus_says_so(bus: Bus, limit: int) -> None:
    names = naming.Names()
    for _ in range(limit):
        names.take(bus)
    with pytest.raises(InvalidRequest, match=f"takes {limit}"):
        names.take(bus)


@given(st.integers(0, 20000))
def test_a_name_and_its_number(number: int) -> None:
    assert naming.index(naming.target(Bus.SCSI, number)) == number


def test_names_go_on_after_z() -> None:
    assert [naming.target(Bus.SCSI, number) for number in (0, 25, 26, 701, 702)] == [
        "sda", "sdz", "sdaa", "sdzz", "sdaaa",
    ]  # fmt: skip


def test_models() -> None:
    assert naming.scsi_model(Image(id="x")) == "virtio-scsi"
    assert naming.scsi_model(Image(id="x", properties={"hw_scsi_model": "lsilogic"})) == "lsilogic"
    assert naming.vif_model(Image(id="x"), "e1000") == "e1000"
    with pytest.raises(InvalidRequest, match="hw_vif_model"):
        naming.vif_model(Image(id="x", properties={"hw_vif_model": "sriov"}))
