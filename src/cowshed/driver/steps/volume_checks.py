"""Before a volume is touched: what it is called, whether it is to be had, and who has it already."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cowshed import log
from cowshed.driver.steps import reachable
from cowshed.errors import Conflict, CowshedError, DiskTooSmall, HostUnsuitable, NameTaken
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.volume import AttachedVolume
from cowshed.units import MiB
from cowshed.volumes import find, record, shape, spec
from cowshed.volumes import info as infos

if TYPE_CHECKING:
    from cowshed.domain.naming import Names
    from cowshed.driver.rooms import Rooms
    from cowshed.driver.steps.mapping import Asked

_log = log.logger(__name__)

HERE = ("file", "local")  # types whose storage this host answers for itself
LEAST = MiB  # of a volume to boot from: whoever gives less has mistaken it


def plan(rooms: Rooms, image: Image, names: Names, asked: Sequence[Asked]) -> tuple[AttachedVolume, ...]:
    """The volumes of an instance, named and placed; those that have names first.

    :raises InvalidRequest: :raises UnsupportedOperation: :raises NameTaken:
    """
    from cowshed.domain import naming
    from cowshed.driver.steps import mapping

    default = naming.buses(image, disks=rooms.config.disks, guest=rooms.config.guest).disk
    found = []
    for one in sorted(asked, key=lambda one: not one.name):
        find(rooms.connectors, one.info).check(one.info)
        reachable.check_volume(rooms, one.info)
        found.append(mapping.placed(one, names, default))
    return tuple(found)


def refuse_double(asked: Sequence[Asked]) -> None:
    """:raises NameTaken: one volume is asked for twice"""
    for number, one in enumerate(asked):
        if any(infos.is_same(one.info, other.info) for other in asked[:number]):
            raise NameTaken(kind="volume", name=infos.volume_id(one.info), hint="it is asked for twice")


def refuse_used(rooms: Rooms, instance: Instance, info: Mapping[str, Any], *, successor_of: str = "") -> None:
    """Two guests that do not know of each other would destroy what is on the volume.

    :param successor_of: the id of the volume it takes the place of; it may be called the same then, and be elsewhere
    :raises NameTaken: this instance has it already :raises Conflict: another one of this host has
    """
    for one in record.load(rooms.directory(instance.uuid).path):
        same = infos.is_same_place if one.id == successor_of else infos.is_same
        if same(one.connection_info, info):
            hint = f"it is {one.target or 'attached'} already, from {spec.shown(one.connection_info)}"
            raise NameTaken(kind="volume", name=f"{one.id} of {instance.name}", hint=hint)
    refuse_shared(rooms, instance, info)


def refuse_alike(rooms: Rooms, instance: Instance, volume: AttachedVolume) -> None:
    """What took the place of a volume goes by its serial number: who looks for one of them would find the other.

    :raises NameTaken:
    """
    for one in record.load(rooms.directory(instance.uuid).path):
        if one.id != volume.id and (one.alias == volume.alias or one.serial == volume.serial):
            raise NameTaken(
                kind="serial number",
                name=f"{volume.serial} of {instance.name}",
                hint=f"volume {one.id} ({one.target}) took the place of {volume.id}; detach that first",
            )


def refuse_shared(rooms: Rooms, instance: Instance, info: Mapping[str, Any]) -> None:
    """:raises Conflict: another instance of this host has the volume, and not both say that it is shared"""
    for path in sorted(rooms.instances.glob(f"*/{record.FILE}")):
        if path.parent.name == instance.uuid:
            continue
        for one in record.load(path.parent):
            both = shape.shareable(info) and shape.shareable(one.connection_info)
            if infos.is_same(one.connection_info, info) and not both:
                raise Conflict(
                    reason=f"volume {one.id} ({spec.shown(info)}) is attached to instance {path.parent.name}",
                    hint="detach it there, or attach it to both as shared (--shared; multiattach): the guests must know how",
                )


def not_there(error: CowshedError, what: str = "a volume") -> HostUnsuitable:
    """What the destination of a move says whose storage is not reached from there."""
    return HostUnsuitable(
        reason=f"{what} cannot be had at the destination: {error}",
        hint="see that the storage is reached from there as well",
    )


def foresee(rooms: Rooms, instance: Instance, planned: Sequence[AttachedVolume], image: Image) -> None:
    """Look at the volumes of a new instance before anything is made for it.

    :raises NotFound: :raises PermissionDenied: :raises OperatorError: one is not to be had
    :raises Conflict: another instance has it :raises DiskTooSmall: nothing can be booted from the root volume
    """
    for volume in planned:
        info = volume.connection_info
        refuse_shared(rooms, instance, info)
        size = find(rooms.connectors, info).look(info)
        needed = max(image.min_disk, LEAST)
        if volume.is_root and size is not None and size < needed:
            raise DiskTooSmall(disk=f"volume {volume.id}", size=size, needed=needed, hint="grow it on its storage")


def sizes_here(rooms: Rooms, asked: Sequence[AttachedVolume]) -> dict[str, int]:
    """Bytes of the volumes that are files and devices of this host, by id; what cannot be told now is left out.

    Of an encrypted one the guest sees less than it has, and how much less is in its header only.
    """
    found = {}
    for volume in asked:
        if infos.type_of(volume.connection_info) not in HERE or volume.encryption:
            continue
        try:
            size = find(rooms.connectors, volume.connection_info).look(volume.connection_info)
        except CowshedError as error:
            _log.info("the size of volume %s is not known: %s", volume.id, error)
            continue
        if size is not None:
            found[volume.id] = size
    return found
