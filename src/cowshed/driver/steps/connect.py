"""Plug and unplug the interfaces of an instance."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.errors import CowshedError
from cowshed.model.vif import PluggedVif, Vif
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)


def check(rooms: Rooms, vifs: Sequence[Vif]) -> None:
    """Everything that can be known before anything is made: networks, ports, support.

    :raises NetworkNotFound: :raises PortInUse: :raises UnsupportedOperation:
    """
    for vif in vifs:
        rooms.pluggers[vif.type].check(vif, rooms.capabilities)


def plug(rooms: Rooms, vifs: Sequence[Vif], undo: Undo) -> list[PluggedVif]:
    plugged = []
    for vif in vifs:
        plugger = rooms.pluggers[vif.type]
        undo.push(f"unplug {vif.address}", plugger.unplug, vif)
        plugged.append(plugger.plug(vif, rooms.capabilities))
    return plugged


def unplug(rooms: Rooms, vifs: Sequence[Vif]) -> None:
    """Remove the host side of every vif; what fails is logged and the rest goes on."""
    for vif in vifs:
        try:
            rooms.pluggers[vif.type].unplug(vif)
        except CowshedError as error:
            _log.warning("could not unplug %s: %s", vif.address, error)
