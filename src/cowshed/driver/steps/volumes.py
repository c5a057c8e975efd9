"""Connect and disconnect the volumes of an instance; find them in its domain.

The record beside the instance's disks is written before a volume is connected and goes after it has
been disconnected, so nothing that a killed process had connected is forgotten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cowshed import log
from cowshed.driver.steps import reachable
from cowshed.errors import Busy, Conflict, CowshedError, DiskTooSmall, NameTaken
from cowshed.model.disk import AttachedDisk, Bus, CacheMode, DiskSource, DiskType
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.volume import AttachedVolume, VolumeState
from cowshed.undo import Undo
from cowshed.units import MiB
from cowshed.volumes import find, record, shape, spec
from cowshed.volumes import info as infos

if TYPE_CHECKING:
    from cowshed.domain.disk import Disk
    from cowshed.domain.naming import Names
    from cowshed.driver.rooms import Rooms
    from cowshed.driver.steps.mapping import Asked

_log = log.logger(__name__)

HERE = ("file", "local")  # types whose storage this host answers for itself
LEAST = MiB  # of a volume to boot from: whoever gives less has mistaken it
PATIENCE = 300.0  # seconds for somebody else who connects or disconnects the same volume


def directory(rooms: Rooms, instance: Instance) -> Path:
    return rooms.directory(instance.uuid).path


def recorded(rooms: Rooms, instance: Instance) -> tuple[AttachedVolume, ...]:
    return record.load(directory(rooms, instance))


# --- before anything is touched -------------------------------------------------------------------


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
    for one in recorded(rooms, instance):
        same = infos.is_same_place if one.id == successor_of else infos.is_same
        if same(one.connection_info, info):
            hint = f"it is {one.target or 'attached'} already, from {spec.shown(one.connection_info)}"
            raise NameTaken(kind="volume", name=f"{one.id} of {instance.name}", hint=hint)
    refuse_shared(rooms, instance, info)


def refuse_alike(rooms: Rooms, instance: Instance, volume: AttachedVolume) -> None:
    """What took the place of a volume goes by its serial number: who looks for one of them would find the other.

    :raises NameTaken:
    """
    for one in recorded(rooms, instance):
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
                    hint="detach it there, or share it between guests that know how (multiattach)",
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


def root(rooms: Rooms, instance: Instance) -> AttachedVolume | None:
    """The volume the instance boots from; None: it has a root disk of its own."""
    return next((one for one in recorded(rooms, instance) if one.is_root), None)


# --- the host side --------------------------------------------------------------------------------


@contextmanager
def held(rooms: Rooms, volume_id: str, *, patience: float = PATIENCE) -> Iterator[None]:
    """One at a time connects or disconnects a volume on this host: it may be shared."""
    from cowshed.tools import filesystem, locks

    path = rooms.state / "locks" / f"volume-{volume_id}"
    filesystem.make_directory(path.parent)
    with locks.lock(path, timeout=patience, what=f"volume {volume_id}"):
        yield


def connect(rooms: Rooms, instance: Instance, volume: AttachedVolume) -> AttachedDisk:
    """The disk that shows ``volume``; its record is there first. Repeating is success."""
    record.save(directory(rooms, instance), volume)
    _open_key(rooms, volume)
    source = find(rooms.connectors, volume.connection_info).connect(volume.connection_info)
    record.save(directory(rooms, instance), volume)  # with what the connector has added to it
    return _cached(shape.disk(volume, source))


def _cached(disk: AttachedDisk) -> AttachedDisk:
    """Past the page cache only where the file system knows that: tmpfs, for one, does not."""
    from cowshed.volumes.local import has_direct_io

    source = disk.source
    if source.type != DiskType.FILE or source.path is None or disk.cache not in (CacheMode.NONE, CacheMode.DIRECTSYNC):
        return disk
    return disk if has_direct_io(source.path) else replace(disk, cache=CacheMode.WRITETHROUGH)


def _open_key(rooms: Rooms, volume: AttachedVolume) -> None:
    """libvirt gets the key for as long as its daemon lives; a key that it keeps itself is there already."""
    if volume.encryption is None:
        return
    from cowshed.disks import keys

    secrets, key_id = rooms.hypervisor.secrets, volume.encryption.key_id
    if not secrets.kept(key_id):
        keys.define(secrets, key_id, rooms.keys.get(key_id), ephemeral=True)


def disconnect(rooms: Rooms, instance: Instance, volume: AttachedVolume, *, keep_record: bool = False) -> None:
    """Remove the host side, unless another instance of this host uses the volume; then the record.

    :raises CowshedError: it could not be; the record stays
    """
    with held(rooms, volume.id):
        disconnect_held(rooms, instance.uuid, volume, keep_record=keep_record)


def disconnect_held(rooms: Rooms, uuid: str, volume: AttachedVolume, *, keep_record: bool = False) -> None:
    """As :func:`disconnect`, by who holds the volume's lock already."""
    if not [one for one in record.users(rooms.instances, volume.id) if one != uuid]:
        find(rooms.connectors, volume.connection_info).disconnect(volume.connection_info)
        _close_key(rooms, volume)
    place = rooms.directory(uuid).path
    if place.is_dir() and not keep_record:
        record.forget(place, volume.id)


def _close_key(rooms: Rooms, volume: AttachedVolume) -> None:
    if volume.encryption is not None:
        secrets = rooms.hypervisor.secrets
        if secrets.kept(volume.encryption.key_id) is False:
            secrets.undefine(volume.encryption.key_id)


def connect_all(
    rooms: Rooms,
    instance: Instance,
    volumes: Sequence[AttachedVolume],
    undo: Undo,
    *,
    bad: Callable[[list[str]], None] | None = None,
) -> list[AttachedDisk]:
    """Every volume of an instance that is about to start.

    :param bad: hears the device names of volumes that are not to be had; the instance starts without them
    """
    disks, missing = [], []
    for volume in volumes:
        new = volume.state == VolumeState.CONNECTING
        if new:
            undo.push(f"disconnect volume {volume.id}", disconnect, rooms, instance, volume)
        try:
            with held(rooms, volume.id):
                if new:
                    refuse_shared(rooms, instance, volume.connection_info)
                disks.append(connect(rooms, instance, replace(volume, state=VolumeState.ATTACHED)))
        except CowshedError as error:
            if bad is None:
                raise
            _log.warning("volume %s cannot be connected: %s", volume.id, error)
            missing.append(f"/dev/{volume.target}")
    if missing and bad is not None:
        bad(missing)
    return disks


def around(disks: Sequence[AttachedDisk], connected: Sequence[AttachedDisk]) -> list[AttachedDisk]:
    """The volumes where the instance's own disks leave room: a rescued or rebuilt one may have others than before.

    Who they are is in alias and serial number; the name is only where they stand.
    """
    from cowshed.domain.naming import Names

    own = {one.target for one in disks}
    names = Names([(one.target, one.bus) for one in disks])
    return [
        replace(disk, target=names.take(disk.bus, "" if disk.target in own else disk.target))
        for disk in sorted(connected, key=lambda disk: disk.target in own)
    ]


def wanted(rooms: Rooms, instance: Instance, image: Image, block_devices: Any) -> tuple[AttachedVolume, ...]:
    """The volumes of an instance that exists: what the caller says, where it says anything, else the record."""
    from cowshed.domain import naming
    from cowshed.driver.steps import mapping, placing

    known = {one.id: one for one in recorded(rooms, instance)}
    asked = mapping.entries(block_devices)
    if asked is None:
        return tuple(known.values())
    ids = [infos.volume_id(one.info) for one in asked]
    for volume in known.values():
        if volume.id not in ids:  # detached while nobody looked
            _quietly(rooms, instance, volume)
    kept = [_again(known[name], one) for name, one in zip(ids, asked, strict=True) if name in known]
    places = placing.remembered(rooms, instance).values()
    names = naming.Names([(one.target, one.bus) for one in places] + [(one.target, one.bus) for one in kept])
    new = plan(rooms, image, names, [one for name, one in zip(ids, asked, strict=True) if name not in known])
    return (*kept, *new)


def _again(volume: AttachedVolume, asked: Asked) -> AttachedVolume:
    """The caller knows the connection, the record where the guest sees it."""
    return replace(volume, connection_info=merged(volume.connection_info, asked.info))


def merged(known: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given wins; what only the record has (a device's path on this host) stays."""
    return {**known, **given, "data": {**infos.data(known), **infos.data(given)}}


def disconnect_all(rooms: Rooms, instance: Instance, block_devices: Any, *, keep_record: bool = False) -> None:
    """Of the record and of what the caller names; what fails is logged and the rest goes on.

    :param keep_record: its disks stay, and it may be started on them
    """
    from cowshed.driver.steps import mapping

    known = {one.id: one for one in recorded(rooms, instance)}
    for asked in mapping.entries(block_devices) or ():
        identity = infos.volume_id(asked.info)
        found = known.get(identity) or AttachedVolume(identity, asked.info, asked.name, Bus.VIRTIO)
        known[identity] = replace(found, connection_info=merged(found.connection_info, asked.info))
    for volume in known.values():
        _quietly(rooms, instance, volume, keep_record=keep_record)


def _quietly(rooms: Rooms, instance: Instance, volume: AttachedVolume, *, keep_record: bool = False) -> None:
    try:
        disconnect(rooms, instance, volume, keep_record=keep_record)
    except CowshedError as error:
        _log.warning("could not disconnect volume %s of %s: %s", volume.id, instance.name, error)


# --- in the domain --------------------------------------------------------------------------------


def finder(volume: AttachedVolume) -> Callable[[str], Disk | None]:
    """Finds the volume in a domain: by alias, else by serial number, else by name where nothing else is known."""

    def look(xml: str) -> Disk | None:
        from cowshed.domain.domain import Domain

        disks = Domain.parse(xml).disks
        for one in disks:
            if one.alias and one.alias == volume.alias:
                return one
        for one in disks:
            if one.serial and one.serial in (volume.serial, volume.id):
                return one
        for one in disks:
            if one.target == volume.target and not one.serial and not (one.alias or "").startswith("ua-"):
                return one
        return None

    return look


def source_at(disk: Disk) -> DiskSource | None:
    from cowshed.domain.disk import attached

    found = attached(disk)
    return found.source if found else None


# --- after a crash --------------------------------------------------------------------------------


def recover(rooms: Rooms) -> None:
    """Finish what killed processes left half attached or half detached: their locks are free."""
    for path in sorted(rooms.instances.glob(f"*/{record.FILE}")):
        try:
            for volume in record.load(path.parent):
                if volume.state != VolumeState.ATTACHED:
                    _recover(rooms, path.parent, volume.id)
        except Busy:
            continue  # somebody is at it
        except CowshedError as error:
            _log.warning("volumes of %s: %s", path.parent.name, error)


def _recover(rooms: Rooms, place: Path, volume_id: str) -> None:
    with held(rooms, volume_id, patience=0):
        settle(rooms, place, volume_id)


def settle(rooms: Rooms, place: Path, volume_id: str) -> None:
    """What a process left half done is attached, or gone; the caller holds the volume's lock, so it is dead.

    :param place: the directory of the instance
    """
    volume = next((one for one in record.load(place) if one.id == volume_id), None)
    if volume is None or volume.state == VolumeState.ATTACHED:
        return
    guest, look = rooms.hypervisor.find(place.name), finder(volume)
    disk = guest and (look(guest.xml()) or look(guest.xml(inactive=True)))
    before = _before(place, volume)
    if guest and disk and before:
        if _shows(rooms, disk, volume):
            return _succeed(rooms, place, before, volume)
        if not guest.ended():
            guest.block_jobs.give_up(disk.target or volume.target, "copy")
    elif disk:
        record.save(place, replace(volume, state=VolumeState.ATTACHED))
        return
    _log.warning("disconnecting volume %s of %s, which was left %s", volume.id, place.name, volume.state)
    disconnect_held(rooms, place.name, volume)


def _before(place: Path, volume: AttachedVolume) -> AttachedVolume | None:
    """The one whose place in the guest it was about to take, and which is found there by the same alias."""
    if volume.state != VolumeState.CONNECTING or not volume.alias:
        return None
    return next((one for one in record.load(place) if one.id != volume.id and one.alias == volume.alias), None)


def _shows(rooms: Rooms, disk: Disk, volume: AttachedVolume) -> bool:
    """Is it this one that the guest has there?"""
    seen, ours = source_at(disk), find(rooms.connectors, volume.connection_info).connect(volume.connection_info)
    return seen is not None and _where(seen) == _where(ours)


def _where(source: DiskSource) -> tuple[object, ...]:
    hosts = tuple((one.name, one.port, one.socket) for one in source.hosts)
    return source.type, source.path, source.protocol, source.name, hosts


def _succeed(rooms: Rooms, place: Path, old: AttachedVolume, new: AttachedVolume) -> None:
    """The guest had changed over when the process that exchanged its volumes ended."""
    done = replace(new, id=infos.volume_id(new.connection_info), state=VolumeState.ATTACHED)
    record.exchange(place, (old.id, new.id), done)
    if old.id != done.id:
        with held(rooms, old.id, patience=0):
            disconnect_held(rooms, place.name, old)
