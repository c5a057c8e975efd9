"""Stop a guest and remove what belongs to an instance; already gone is success everywhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.errors import CowshedError, DataCorrupt, InvalidState
from cowshed.model.instance import Instance, PowerState

if TYPE_CHECKING:
    from cowshed.contract.storage import Backend, Disk
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest
    from cowshed.model.disk import ManifestDisk

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
    """Remove every disk of the instance, on whichever backend.

    :raises ConfigError: it has one on a backend that is not configured any more; the others are gone
    :raises CowshedError: the first that failed, after all have been tried
    """
    first: CowshedError | None = None
    for find in _finders(rooms, instance):
        try:
            for disk in find():
                disk.delete()
        except CowshedError as error:
            _log.warning("could not delete a disk of %s: %s", instance.name, error)
            first = first or error
    if first:
        raise first


def _finders(rooms: Rooms, instance: Instance) -> list[Callable[[], Sequence[Disk]]]:
    """Each finds disks, and may fail by itself: one for each line of the manifest.

    A manifest that cannot be read names none: every backend is asked what it knows. Files go with
    the directory all the same.
    """
    from cowshed.disks import manifest

    try:
        entries = manifest.load(rooms.directory(instance.uuid).path).disks.values()
    except DataCorrupt as error:
        _log.warning("%s; asking every backend for disks of %s", error, instance.name)
        return [partial(_known_to, backend, instance.uuid) for backend in rooms.backends.values()]
    return [partial(_named_by, rooms, instance.uuid, entry) for entry in entries]


def _named_by(rooms: Rooms, uuid: str, entry: ManifestDisk) -> Sequence[Disk]:
    return [rooms.backend(entry.backend).disk(uuid, entry.name)]


def _known_to(backend: Backend, uuid: str) -> Sequence[Disk]:
    try:
        return backend.disks(uuid)
    except DataCorrupt:
        return []
