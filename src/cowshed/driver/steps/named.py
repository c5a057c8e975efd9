"""Which disk of an instance is meant, and whether it may be worked on now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cowshed.driver.steps import disk_names, moving, placing, replacing, volumes
from cowshed.errors import DiskNotFound, InvalidRequest, InvalidState
from cowshed.model.disk import ManifestDisk
from cowshed.model.instance import Instance, PowerState

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

OFF = (PowerState.SHUTDOWN, PowerState.CRASHED, PowerState.NOSTATE)


def entries(rooms: Rooms, instance: Instance) -> dict[str, ManifestDisk]:
    """The disks of the instance, as its manifest has them; not what an interrupted move or rebuild has left.

    :raises DataCorrupt:
    """
    from cowshed.disks import manifest

    found = manifest.load(rooms.directory(instance.uuid).path).disks
    return {name: entry for name, entry in found.items() if not moving.is_left(entry) and not replacing.is_second(name)}


def one(rooms: Rooms, instance: Instance, word: str = "") -> ManifestDisk:
    """The disk that ``word`` means: its name, root, swap, ..., or its target in the guest (``vda``).

    :param word: empty: the root disk
    :raises DiskNotFound: the hint names those there are
    """
    known = entries(rooms, instance)
    name = disk_names.disk_name(word) if word else _root(known)
    if name not in known:
        name = _at(rooms, instance, word)
    if name in known:
        return known[name]
    raise DiskNotFound(name=f"{word or 'root'} of instance {instance.name}", hint=_what_it_has(rooms, instance, known))


def _what_it_has(rooms: Rooms, instance: Instance, known: dict[str, ManifestDisk]) -> str:
    has = f"it has {', '.join(known)}" if known else "it has none"
    root = volumes.root(rooms, instance)
    return f"{has}, and boots from volume {root.id} ({root.target})" if root else has


def _root(known: dict[str, ManifestDisk]) -> str:
    return disk_names.ROOT if disk_names.ROOT in known else disk_names.CDROM


def _at(rooms: Rooms, instance: Instance, target: str) -> str:
    places = placing.remembered(rooms, instance)
    return next((name for name, place in places.items() if place.target == target.removeprefix("/dev/")), "")


def changeable(rooms: Rooms, instance: Instance, word: str = "") -> ManifestDisk:
    """:raises InvalidRequest: it is one that the guest only reads, and the host makes"""
    entry = one(rooms, instance, word)
    if entry.name in disk_names.LOCAL_ONLY:
        raise InvalidRequest(reason=f"{entry.name} is made by this host for each start, and stays as it is")
    return entry


def all_changeable(rooms: Rooms, instance: Instance) -> list[ManifestDisk]:
    """Every disk that the guest can write to."""
    places = placing.remembered(rooms, instance)
    known = entries(rooms, instance)
    return [entry for name, entry in known.items() if name in places and not places[name].readonly]


def check_off(rooms: Rooms, instance: Instance, action: str) -> None:
    """:raises InvalidState: a guest uses the disks, or its saved memory knows them as they are

    :param action: what cannot be done to the instance meanwhile, such as ``rolled back``
    """
    guest = rooms.hypervisor.find(instance.uuid)
    if guest is None:
        return
    state = guest.state()
    if state not in OFF:
        hint = f"stop it first: cowshed stop {instance.name}"
        raise InvalidState(name=instance.name, state=state.word, action=action, hint=hint)
    if guest.has_saved():
        hint = "its saved memory knows the disks as they are: resume it, then stop it"
        raise InvalidState(name=instance.name, state="suspended", action=action, hint=hint)
