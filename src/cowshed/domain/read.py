"""Questions about the XML that libvirt returns, live or defined."""

from __future__ import annotations

from dataclasses import dataclass

from cowshed.domain import commandline, disk
from cowshed.domain.address import Address
from cowshed.domain.domain import Domain
from cowshed.domain.element import parse
from cowshed.model.disk import AttachedDisk
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif


@dataclass(frozen=True, slots=True)
class PluggedInterface:
    """An interface as libvirt sees it; ``target`` is its device on the host while it runs."""

    address: str
    type: str
    source: str = ""
    target: str = ""
    model: str = ""
    up: bool = True


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a domain says of the instance it was made for, when its record is lost."""

    instance: Instance
    vifs: tuple[Vif, ...]
    image_name: str
    image_properties: dict[str, str]


def disks(xml: str) -> tuple[AttachedDisk, ...]:
    """All disks and cdroms with a medium, their backing chains included.

    :raises DataCorrupt: it is not a domain
    """
    return tuple(found for one in Domain.parse(xml).disks if (found := disk.attached(one)))


def interfaces(xml: str) -> tuple[PluggedInterface, ...]:
    """The interfaces libvirt made; those given to QEMU directly are in ``recover(xml).vifs`` only.

    :raises DataCorrupt: it is not a domain
    """
    return tuple(
        PluggedInterface(
            address=one.mac or "",
            type=one.type or "",
            source=one.network or one.bridge or one.device or "",
            target=one.target or "",
            model=one.model or "",
            up=one.link != "down",
        )
        for one in Domain.parse(xml).interfaces
    )


def pci_addresses(xml: str) -> dict[str, str]:
    """Of the interfaces: MAC address (lower case) -> PCI address as Linux writes it, or ""."""
    found = {}
    for node in parse(xml).findall("devices/interface"):
        mac, address = node.find("mac"), node.find("address")
        if mac is not None:
            pci = Address.from_node(address).pci if address is not None else ""
            found[mac.get("address", "").lower()] = pci
    given = Domain.parse(xml).commandline
    return found | (commandline.addresses(given) if given else {})


def recover(xml: str) -> Recovered | None:
    """The instance as its domain remembers it; None for a domain that cowshed did not make.

    :raises DataCorrupt: it is not a domain, or its metadata is damaged
    """
    domain = Domain.parse(xml)
    if domain.metadata is None:
        return None
    return Recovered(
        instance=domain.metadata.instance(domain.uuid or ""),
        vifs=domain.metadata.vifs(),
        image_name=domain.metadata.image_name or "",
        image_properties=domain.metadata.image_properties(),
    )
