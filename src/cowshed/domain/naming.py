"""Which bus a disk goes on and what it is called, from image properties and the host's defaults."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cowshed.config import DisksSection, GuestSection
from cowshed.domain.properties import Properties
from cowshed.errors import InvalidRequest, NameTaken, UnsupportedOperation
from cowshed.model.disk import Bus, Device
from cowshed.model.image import Image

CONFIG_DRIVE: Final = "disk.config"
SCSI_MODELS: Final = ("virtio-scsi", "lsilogic", "lsisas1068", "lsisas1078", "vmpvscsi", "buslogic")
VIF_MODELS: Final = ("virtio", "e1000", "e1000e", "rtl8139", "ne2k_pci", "pcnet", "vmxnet3")

_PREFIX: Final = {Bus.VIRTIO: "vd", Bus.IDE: "hd", Bus.FDC: "fd"}  # the others are sd
# How many a machine takes: two channels of two; what fits on PCI; one virtio-scsi controller; two drives.
LIMITS: Final[Mapping[Bus, int]] = {
    Bus.VIRTIO: 26,
    Bus.SCSI: 256,
    Bus.SATA: 24,
    Bus.IDE: 4,
    Bus.USB: 16,
    Bus.FDC: 2,
}


class Machine(StrEnum):
    """The two families of x86 machines: PCI Express with SATA built in, PCI with IDE built in."""

    Q35 = "q35"
    PC = "pc"


def machine(name: str) -> Machine:
    """The family of a machine type such as ``q35``, ``pc-q35-7.2``, ``pc``, ``pc-i440fx-7.2``.

    :raises UnsupportedOperation: neither
    """
    if name == "q35" or name.startswith("pc-q35"):
        return Machine.Q35
    if name == "pc" or name.startswith("pc-i440fx"):
        return Machine.PC
    raise UnsupportedOperation(
        subject="cowshed", operation=f"make a machine of type {name!r}", reason="it makes q35 and pc", hint="use q35"
    )


def machine_type(properties: Properties, guest: GuestSection) -> str:
    return properties.text("hw_machine_type") or guest.machine


@dataclass(frozen=True, slots=True)
class Buses:
    """What each kind of device of one instance goes on."""

    disk: Bus
    cdrom: Bus
    machine: Machine

    def of(self, name: str, device: Device = Device.DISK) -> tuple[Bus, Device]:
        """The bus of disk ``name`` and what it is shown as.

        The config drive is a plain read-only disk where disks are virtio: Debian's cloud kernel,
        for one, has no driver for a SATA cdrom, so cloud-init would not find it there.
        """
        if name == CONFIG_DRIVE:
            return (Bus.VIRTIO, Device.DISK) if self.disk == Bus.VIRTIO else (self.disk, Device.CDROM)
        if device == Device.CDROM:
            return self.cdrom, device
        if device == Device.FLOPPY:
            return Bus.FDC, device
        return self.disk, device


def buses(image: Image, *, disks: DisksSection, guest: GuestSection) -> Buses:
    """:raises InvalidRequest: a word that is no bus, or a bus that the machine lacks"""
    properties = Properties.of(image)
    family = machine(machine_type(properties, guest))
    disk = _bus(properties, "hw_disk_bus", disks.bus, family)
    cdrom = _bus(properties, "hw_cdrom_bus", _cdrom(disk, family), family)
    if cdrom == Bus.VIRTIO:
        raise InvalidRequest(reason="hw_cdrom_bus: there are no virtio cdroms", hint="use sata, scsi, ide or usb")
    return Buses(disk, cdrom, family)


def _cdrom(disk: Bus, family: Machine) -> Bus:
    """Where the disks are if that can be, else where the machine's own controller is."""
    if disk in (Bus.SCSI, Bus.SATA, Bus.IDE):
        return disk
    return Bus.SATA if family == Machine.Q35 else Bus.IDE


def _bus(properties: Properties, name: str, default: str, family: Machine) -> Bus:
    known = [bus.value for bus in Bus if bus != Bus.FDC]
    bus = Bus(properties.word(name, default, known))
    if bus == Bus.IDE and family == Machine.Q35:
        raise InvalidRequest(
            reason=f"{name}: a q35 machine has no IDE", hint="use sata, or hw_machine_type=pc in the image's properties"
        )
    return bus


def scsi_model(image: Image) -> str:
    """:raises InvalidRequest: not one of SCSI_MODELS"""
    return Properties.of(image).word("hw_scsi_model", "virtio-scsi", SCSI_MODELS)


def vif_model(image: Image, default: str = "virtio") -> str:
    """:raises InvalidRequest: not one of VIF_MODELS"""
    return Properties.of(image).word("hw_vif_model", default, VIF_MODELS)


class Names:
    """Device names of one instance, the next free one at each ``take``.

    The names say where a device is to libvirt and to people; what the guest calls it is the
    guest's own choice.
    """

    def __init__(self, taken: Iterable[tuple[str, Bus]] = (), *, limits: Mapping[Bus, int] = LIMITS) -> None:
        self._limits = limits
        self._taken: dict[str, Bus] = dict(taken)

    def take(self, bus: Bus, wanted: str = "") -> str:
        """A name on ``bus``: ``wanted`` (``vdb`` or ``/dev/vdb``), or the first that is free.

        :raises InvalidRequest: the bus has no room left, or ``wanted`` is no name on it
        :raises NameTaken: ``wanted`` is in use
        """
        if Counter(self._taken.values())[bus] >= self._limits[bus]:
            raise InvalidRequest(
                reason=f"there is no room for another disk on bus {bus}: it takes {self._limits[bus]}",
                hint="put some disks on another bus (hw_disk_bus), or ask for fewer",
            )
        name = self._wanted(bus, wanted.removeprefix("/dev/")) if wanted else self._next(bus)
        self._taken[name] = bus
        return name

    def _wanted(self, bus: Bus, name: str) -> str:
        prefix = _PREFIX.get(bus, "sd")
        letters = name.removeprefix(prefix)
        if letters == name or not letters.isascii() or not letters.isalpha() or not letters.islower():
            raise InvalidRequest(reason=f"{name!r} is not a disk name on bus {bus}", hint=f"for example {prefix}b")
        if name in self._taken:
            raise NameTaken(kind="disk", name=name)
        if bus in (Bus.IDE, Bus.FDC) and index(name) >= self._limits[bus]:
            raise InvalidRequest(reason=f"bus {bus} has no {name}: it ends at {target(bus, self._limits[bus] - 1)}")
        return name

    def _next(self, bus: Bus) -> str:
        number = 0
        while (name := target(bus, number)) in self._taken:
            number += 1
        return name


def target(bus: Bus, number: int) -> str:
    """The name of the disk with ``number`` on ``bus``, such as ``vda``, ``sdz``, ``sdaa``."""
    letters, number = "", number + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("a") + rest) + letters
    return _PREFIX.get(bus, "sd") + letters


def index(target: str) -> int:
    """The number of a device name: 0 for ``sda``, 26 for ``sdaa``."""
    number = 0
    for letter in target[2:]:
        number = number * 26 + ord(letter) - ord("a") + 1
    return number - 1
