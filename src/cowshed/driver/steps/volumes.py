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
from cowshed.driver.steps import volume_checks
from cowshed.errors import CowshedError
from cowshed.model.disk import AttachedDisk, Bus, CacheMode, DiskSource, DiskType
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.volume import AttachedVolume, VolumeState
from cowshed.undo import Undo
from cowshed.volumes import find, record, shape
from cowshed.volumes import info as infos

if TYPE_CHECKING:
    from cowshed.domain.disk import Disk
    from cowshed.driver.rooms import Rooms
    from cowshed.driver.steps.mapping import Asked

_log = log.logger(__name__)

PATIENCE = 300.0  # seconds for somebody else who connects or disconnects the same volume


def directory(rooms: Rooms, instance: Instance) -> Path:
    return rooms.directory(instance.uuid).path


def recorded(rooms: Rooms, instance: Instance) -> tuple[AttachedVolume, ...]:
    return record.load(directory(rooms, instance))


def root(rooms: Rooms, instance: Instance) -> AttachedVolume | None:
    """The volume the instance boots from; None: it has a root disk of its own."""
    return next((one for one in recorded(rooms, instance) if one.is_root), None)


# --- the host side --------------------------------------------------------------------------------


@contextmanager
def held(rooms: Rooms, volume_id: str, *, patience: float = PATIENCE) -> Iterator[None]:
    """One at a time connects or disconnects a volume on this host: it may be shared."""
    from cowshed.tools import filesystem, locks

    path = _lock(rooms, volume_id)
    filesystem.make_directory(path.parent)
    with locks.lock(path, timeout=patience, what=f"volume {volume_id}"):
        yield


def _lock(rooms: Rooms, volume_id: str) -> Path:
    return rooms.state / "locks" / f"volume-{volume_id}"


def forget_lock(rooms: Rooms, volume_id: str) -> None:
    """The file of the lock, when no instance has the volume any more; nobody who works with it is disturbed."""
    from cowshed.tools import locks

    if any(record.users(rooms.instances, volume_id, skip_damaged=True)):
        return
    try:
        locks.remove(_lock(rooms, volume_id))
    except CowshedError as error:
        _log.warning("the lock file of volume %s is still there: %s", volume_id, error)


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
    forget_lock(rooms, volume.id)


def disconnect_held(rooms: Rooms, uuid: str, volume: AttachedVolume, *, keep_record: bool = False) -> None:
    """As :func:`disconnect`, by who holds the volume's lock already."""
    if not others(rooms, uuid, volume):
        find(rooms.connectors, volume.connection_info).disconnect(volume.connection_info)
        _close_key(rooms, volume)
    place = rooms.directory(uuid).path
    if place.is_dir() and not keep_record:
        record.forget(place, volume.id)


def others(rooms: Rooms, uuid: str, volume: AttachedVolume) -> list[str]:
    """The other instances of this host that have the volume, which ``uuid`` has or had.

    One that is not for sharing was refused to ``uuid`` unless nobody else had it, and to others since
    (:func:`.volume_checks.refuse_shared`): a record that is damaged meanwhile does not have it.

    :raises DataCorrupt: one that may have it cannot be read; whose host side goes might be another guest's
    """
    own = next((one for one in record.load(rooms.directory(uuid).path) if one.id == volume.id), None)
    alone = (
        own is not None
        and own.state != VolumeState.CONNECTING  # nobody has looked at the others yet
        and not shape.shareable(own.connection_info)
        and not shape.shareable(volume.connection_info)
    )
    users = record.users(rooms.instances, volume.id, skip_damaged=alone)
    return [one for one in users if one != uuid]


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
                    volume_checks.refuse_shared(rooms, instance, volume.connection_info)
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
    new = volume_checks.plan(
        rooms, image, names, [one for name, one in zip(ids, asked, strict=True) if name not in known]
    )
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
