"""Stop a guest and remove what belongs to an instance; already gone is success everywhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cowshed import log
from cowshed.errors import CowshedError, DataCorrupt, InvalidState
from cowshed.model.instance import Instance, PowerState

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

OFF = (PowerState.SHUTDOWN, PowerState.CRASHED, PowerState.NOSTATE)


def power_off(rooms: Rooms, guest: Guest) -> None:
    """Hard. :raises DeadlineExceeded: QEMU does not end; its disks must not be touched then"""
    if guest.ended():
        return
    guest.destroy()
    guest.wait(OFF, timeout=rooms.config.power.start_timeout, what=f"{guest.name} off")


def stop(rooms: Rooms, uuid: str) -> None:
    """Hard, whatever there is of the guest."""
    if guest := rooms.hypervisor.find(uuid):
        power_off(rooms, guest)


def undefine(rooms: Rooms, uuid: str) -> None:
    if guest := rooms.hypervisor.find(uuid):
        guest.undefine()


def shut_down(rooms: Rooms, guest: Guest, timeout: float, interval: float) -> bool:
    """Ask the guest to power off, again every ``interval`` seconds; did it, within ``timeout``?"""
    from cowshed.clock import Deadline
    from cowshed.errors import DeadlineExceeded, InstanceNotFound

    deadline = Deadline(timeout, f"{guest.name} off")
    while not deadline.passed:
        try:
            if guest.ended():
                return True
            if guest.state() == PowerState.PAUSED:
                return False  # a paused guest cannot answer
            guest.shutdown()
            guest.wait(OFF, timeout=min(interval or timeout, deadline.remaining() or 0.0), what=deadline.what)
        except DeadlineExceeded:
            continue
        except InvalidState:
            continue  # it went off between the two calls
        except InstanceNotFound:
            return True
    return False


def delete_disks(rooms: Rooms, instance: Instance) -> None:
    """Remove every disk of the instance on every backend.

    :raises CowshedError: the first that failed, after all have been tried
    """
    first: CowshedError | None = None
    for backend in rooms.backends.values():
        try:
            disks = backend.disks(instance.uuid)
        except DataCorrupt as error:
            # What the manifest names cannot be told any more; files go with the directory all the same.
            _log.warning("disks of %s on %s are not known: %s", instance.name, backend.name, error)
            continue
        except CowshedError as error:
            first = first or error
            continue
        for disk in disks:
            try:
                disk.delete()
            except CowshedError as error:
                _log.warning("could not delete %s of %s: %s", disk.name, instance.name, error)
                first = first or error
    if first:
        raise first
