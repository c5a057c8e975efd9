"""Volumes that a killed process left half attached, half detached, or half exchanged: attached, or gone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.driver.steps import volumes
from cowshed.errors import Busy, CowshedError
from cowshed.model.disk import DiskSource
from cowshed.model.volume import AttachedVolume, VolumeState
from cowshed.volumes import find, record
from cowshed.volumes import info as infos

if TYPE_CHECKING:
    from cowshed.domain.disk import Disk
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)


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
    with volumes.held(rooms, volume_id, patience=0):
        settle(rooms, place, volume_id)


def settle(rooms: Rooms, place: Path, volume_id: str) -> None:
    """What a process left half done is attached, or gone; the caller holds the volume's lock, so it is dead.

    :param place: the directory of the instance
    """
    volume = next((one for one in record.load(place) if one.id == volume_id), None)
    if volume is None or volume.state == VolumeState.ATTACHED:
        return
    guest, look = rooms.hypervisor.find(place.name), volumes.finder(volume)
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
    volumes.disconnect_held(rooms, place.name, volume)


def _before(place: Path, volume: AttachedVolume) -> AttachedVolume | None:
    """The one whose place in the guest it was about to take, and which is found there by the same alias."""
    if volume.state != VolumeState.CONNECTING or not volume.alias:
        return None
    return next((one for one in record.load(place) if one.id != volume.id and one.alias == volume.alias), None)


def _shows(rooms: Rooms, disk: Disk, volume: AttachedVolume) -> bool:
    """Is it this one that the guest has there?"""
    seen, ours = volumes.source_at(disk), find(rooms.connectors, volume.connection_info).connect(volume.connection_info)
    return seen is not None and _where(seen) == _where(ours)


def _where(source: DiskSource) -> tuple[object, ...]:
    hosts = tuple((one.name, one.port, one.socket) for one in source.hosts)
    return source.type, source.path, source.protocol, source.name, hosts


def _succeed(rooms: Rooms, place: Path, old: AttachedVolume, new: AttachedVolume) -> None:
    """The guest had changed over when the process that exchanged its volumes ended."""
    done = replace(new, id=infos.volume_id(new.connection_info), state=VolumeState.ATTACHED)
    record.exchange(place, (old.id, new.id), done)
    if old.id != done.id:
        with volumes.held(rooms, old.id, patience=0):
            volumes.disconnect_held(rooms, place.name, old)
