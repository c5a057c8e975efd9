"""The interfaces of a guest that is there already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cowshed.errors import HypervisorError, NotFound
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import PluggedVif, Vif, VifType

if TYPE_CHECKING:
    from cowshed.domain.interface import Interface
    from cowshed.domain.read import PluggedInterface, Recovered
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest

_ON = (PowerState.RUNNING, PowerState.PAUSED)


def runs(guest: Guest) -> bool:
    """Is there a QEMU, whatever its CPUs do?"""
    return guest.state() in _ON


# --- the record in the domain ---------------------------------------------------------------------


def remembered(rooms: Rooms, guest: Guest) -> tuple[Vif, ...]:
    from cowshed.driver.steps import locate

    return locate.remembered_vifs(rooms, guest)


def recovered(guest: Guest) -> Recovered | None:
    """The instance and its interfaces as the domain remembers them; None: cowshed did not make it."""
    from cowshed.domain import read

    return read.recover(guest.xml(inactive=guest.persistent()))


def remember(guest: Guest, vifs: Sequence[Vif]) -> None:
    """The domain's metadata names these interfaces, which is what the calls without network_info read."""
    from cowshed.domain import metadata
    from cowshed.domain.domain import Domain

    found = Domain.parse(guest.xml(inactive=True)).metadata
    if found is not None:  # else cowshed did not make the domain
        guest.set_metadata(metadata.with_vifs(found, vifs).to_unqualified_xml())


# --- devices --------------------------------------------------------------------------------------


def is_raw(rooms: Rooms, vif: Vif) -> bool:
    """Is it given to QEMU directly, so that libvirt does not know it?"""
    from cowshed.domain import assemble

    backend = rooms.pluggers[vif.type].plug(vif, rooms.capabilities).backend if vif.type == VifType.USER else ""
    return assemble.is_raw(PluggedVif(vif, backend=backend))


def element(instance: Instance, image: Image, plugged: PluggedVif) -> Interface:
    """As it would be defined at a start: model, queues and limits from image and flavor.

    :raises InvalidRequest: :raises UnsupportedOperation:
    """
    from cowshed.domain import assemble

    return assemble.hot_interface(instance, image, plugged)


def attach(guest: Guest, found: Interface, vif: Vif) -> None:
    """:raises HypervisorError: libvirt says yes, and it is not there"""
    from cowshed.domain.interface import finder

    guest.devices.attach(found.to_xml())
    if finder(vif)(guest.xml()) is None:
        raise HypervisorError(
            action=f"attach {vif.address} to {guest.name}", reason="it is not in the domain", number=0
        )


def plugged(guest: Guest) -> list[PluggedInterface]:
    from cowshed.domain import read

    return list(read.interfaces(guest.xml()))


def set_link(guest: Guest, address: str, *, up: bool) -> None:
    """:raises NotFound: the running guest has no such interface"""
    from cowshed.domain.interface import with_link

    xml = with_link(guest.xml(), address, up=up)
    if xml is None:
        raise NotFound(kind="interface", name=f"{address} of {guest.name}")
    guest.devices.update(xml)
