"""Where devices are plugged in: the controllers that libvirt would choose wrongly for us, and whether all fit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from cowshed.domain.controller import Controller
from cowshed.domain.domain import Domain
from cowshed.errors import UnsupportedOperation
from cowshed.model.disk import Bus

SPARE_PORTS: Final = 6  # PCI Express slots left free, for disks and interfaces that are attached later
PCI_SLOTS: Final = 30  # of 32 on a pc: the first two are the host bridge's and the chip set's


def controllers(domain: Domain, *, scsi: str, pcie: bool, raw: int) -> tuple[Controller, ...]:
    """The controllers that ``domain`` names itself.

    On PCI Express each device, and each one attached later, needs a port that is there when the
    machine starts.

    :param scsi: model for SCSI disks; libvirt's own choice (LSI) has no driver in many cloud kernels
    :param raw: how many interfaces take places of their own on the bus, see ``commandline``
    :raises UnsupportedOperation: a PCI bus has no room for all devices
    """
    found = [Controller(type="usb", index=0, model="qemu-xhci" if _usb(domain) else "none")]
    if any(disk.bus == Bus.SCSI for disk in domain.disks):
        thread = 1 if domain.iothreads and scsi == "virtio-scsi" else None
        found.insert(0, Controller(type="scsi", index=0, model=scsi, iothread=thread))
    devices = sum(_devices(domain))
    if pcie:
        return (*found, *_ports(devices + SPARE_PORTS))
    if raw and devices + raw > PCI_SLOTS:
        raise UnsupportedOperation(
            subject="a pc machine",
            operation=f"have {devices + raw} devices with port forwards among them",
            reason=f"it has {PCI_SLOTS} slots",
            hint="use hw_machine_type=q35, put disks on scsi, or forward no ports",
        )
    return tuple(found)


def _ports(number: int) -> Iterator[Controller]:
    yield Controller(type="pci", index=0, model="pcie-root")
    for index in range(1, number + 1):
        yield Controller(type="pci", index=index, model="pcie-root-port")


def _usb(domain: Domain) -> bool:
    """Is there any USB device? Without one there is no controller either."""
    return any(one.bus == "usb" for one in domain.inputs) or any(one.bus == Bus.USB for one in domain.disks)


def _devices(domain: Domain) -> Iterator[int]:
    """How many slots each kind of device takes."""
    yield sum(disk.bus == Bus.VIRTIO for disk in domain.disks)
    for bus in (Bus.SCSI, Bus.SATA):
        yield any(disk.bus == bus for disk in domain.disks)
    yield _usb(domain)
    yield sum(one.bus == "virtio" for one in domain.inputs)
    yield sum(one.model != "none" for one in domain.videos)
    yield bool(domain.channels)
    yield len(domain.filesystems) + len(domain.interfaces) + len(domain.rngs) + len(domain.watchdogs)
    yield domain.memballoon is not None
