"""TCP ports of serial consoles: who has which, in one record of the host.

A stopped instance keeps its port, so that its console is where it was when it starts again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from cowshed.console.ports import Ports
    from cowshed.driver.rooms import Rooms

RECORD = "serial-ports.json"


def take(rooms: Rooms, uuid: str) -> tuple[int, ...]:
    """The port of an instance that is about to start; none unless ``[console] serial_tcp`` is on.

    :raises PortInUse: the whole range is taken
    """
    from cowshed.console import ports
    from cowshed.tools import filesystem

    section = rooms.config.console
    if not section.serial_tcp:
        return ()
    filesystem.make_directory(rooms.facts)
    record = _ports(rooms)
    port = record.take(uuid)
    if not ports.free(port, section.listen):  # somebody took it while the instance was stopped
        record.give_back(uuid)
        port = record.take(uuid)
    return (port,)


def give_back(rooms: Rooms, uuid: str) -> None:
    if (rooms.facts / RECORD).exists():
        _ports(rooms).give_back(uuid)


def keep_existing(rooms: Rooms) -> None:
    """Forget the ports of instances that have no directory any more."""
    if (rooms.facts / RECORD).exists():
        _ports(rooms).keep(path.name for path in rooms.instances.glob("*"))


def _ports(rooms: Rooms) -> Ports:
    from cowshed.console.ports import Ports

    return Ports(rooms.facts / RECORD, address=rooms.config.console.listen)
