"""Controllers that libvirt would otherwise choose by itself, and choose wrongly for us."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from cowshed.domain.disk import Disk
from cowshed.domain.element import Element, value
from cowshed.model.disk import Bus

SPARE_PORTS: Final = 6  # PCIe slots left free, for disks and interfaces that are attached later


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller(Element):
    TAG: ClassVar[str] = "controller"

    type: str | None = value("@type")
    index: int | None = value("@index")
    model: str | None = value("@model")


def controllers(disks: Iterable[Disk], *, scsi: str, usb: bool, pcie: bool, devices: int) -> Iterator[Controller]:
    """The controllers that the domain names itself.

    :param scsi: model for SCSI disks; libvirt's own choice (LSI) has no driver in many cloud kernels
    :param usb: is there any USB device? Without one there is no controller either
    :param pcie: the machine has PCI Express: each of its ``devices``, and each one attached later,
        needs a port that must be there when the machine starts
    """
    if any(disk.bus == Bus.SCSI for disk in disks):
        yield Controller(type="scsi", index=0, model=scsi)
    yield Controller(type="usb", index=0, model="qemu-xhci" if usb else "none")
    if pcie:
        yield Controller(type="pci", index=0, model="pcie-root")
        for number in range(devices + SPARE_PORTS):
            yield Controller(type="pci", index=number + 1, model="pcie-root-port")
