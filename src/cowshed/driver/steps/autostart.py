"""Whether libvirt starts an instance with the host: its owner's choice, which a mark that forbids a start suspends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cowshed.driver.steps import marks

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest


def forbid(rooms: Rooms, guest: Guest, uuid: str) -> None:
    """libvirt does not start it; that it did is noted first, for :func:`allow`."""
    if guest.autostart():
        marks.mark(rooms, uuid, marks.Mark.AUTOSTART)
        guest.set_autostart(False)


def allow(rooms: Rooms, guest: Guest, uuid: str) -> None:
    """As it was before :func:`forbid`; nothing, while something else forbids a start."""
    found = marks.marks(rooms, uuid)
    if marks.Mark.AUTOSTART in found and not found & marks.FORBIDDING:
        guest.set_autostart(True)
        marks.unmark(rooms, uuid, marks.Mark.AUTOSTART)
