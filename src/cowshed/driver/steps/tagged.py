"""What a guest finds by its tag: volumes and interfaces, in the words of OpenStack's device metadata."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cowshed import log
from cowshed.driver.steps import nics, volumes
from cowshed.errors import CowshedError
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif
from cowshed.model.volume import AttachedVolume

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

FILE = "/run/cowshed/devices.json"  # in the guest


def described(rooms: Rooms, instance: Instance, guest: Guest) -> list[dict[str, Any]]:
    """Interfaces and volumes with a tag, where ``guest``, defined or running, has them."""
    xml = guest.xml()
    return _interfaces(xml, nics.remembered(rooms, guest)) + _volumes(xml, volumes.recorded(rooms, instance))


def tell(rooms: Rooms, instance: Instance, guest: Guest) -> None:
    """A running guest with an agent finds what has a tag in ``FILE``. What fails is logged."""
    from cowshed.hypervisor import agent_files

    if guest.state() != PowerState.RUNNING:
        return
    content = json.dumps({"devices": described(rooms, instance, guest)}, sort_keys=True).encode()
    try:
        agent_files.execute(guest.agent, ["mkdir", "-p", FILE.rpartition("/")[0]], timeout=10)
        agent_files.write(guest.agent, FILE, io.BytesIO(content))
    except CowshedError as error:
        _log.info("the guest was not told of its tagged devices: %s", error)


def _interfaces(xml: str, vifs: Sequence[Vif]) -> list[dict[str, Any]]:
    from cowshed.domain import read

    addresses, found = read.pci_addresses(xml), []
    for vif in vifs:
        if vif.tag:
            address = addresses.get(vif.address.lower(), "")
            bus = "pci" if address else "none"
            found.append({"type": "nic", "bus": bus, "address": address, "mac": vif.address, "tags": [vif.tag]})
    return found


def _volumes(xml: str, attached: Sequence[AttachedVolume]) -> list[dict[str, Any]]:
    found = []
    for volume in attached:
        disk = volumes.finder(volume)(xml) if volume.tag else None
        if disk is None:
            continue
        address = disk.address
        pci = address.pci if address else ""
        drive = f"{address.controller}:0:{address.target}:{address.unit}" if address and not pci else ""
        found.append(
            {
                "type": "disk",
                "bus": "pci" if pci else str(volume.bus),
                "address": pci or drive,
                "serial": volume.serial,
                "tags": [volume.tag],
            }
        )
    return found
