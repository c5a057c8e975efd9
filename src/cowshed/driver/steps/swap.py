"""One volume for another: the guest goes on while its content is copied, or does not run at all."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cowshed.driver.steps import devices, volume_checks, volume_settling, volumes
from cowshed.errors import DiskNotFound, InvalidRequest, UnsupportedOperation
from cowshed.model.disk import AttachedDisk, DiskFormat, DiskSource, DiskType
from cowshed.model.instance import Instance
from cowshed.model.volume import AttachedVolume, VolumeState
from cowshed.undo import Undo
from cowshed.units import format_size
from cowshed.volumes import find, record
from cowshed.volumes import info as infos

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest


def swap(rooms: Rooms, instance: Instance, old: AttachedVolume, info: Mapping[str, Any], size: int) -> None:
    """:param size: bytes the guest shall see of the new one; 0: as many as before

    :raises DiskNotFound: the old one is not attached :raises UnsupportedOperation: one is encrypted
    :raises InvalidRequest: the new one is smaller :raises NameTaken: :raises Conflict: the new one is in use
    """
    if old.encryption or infos.data(info).get("encrypted") or infos.data(old.connection_info).get("encrypted"):
        raise UnsupportedOperation(
            subject="cowshed", operation="exchange an encrypted volume", reason="the copy would mix what is encrypted"
        )
    find(rooms.connectors, info).check(info)
    guest = rooms.hypervisor.guest(instance.uuid)
    present = volumes.finder(old)(guest.xml())
    if present is None:
        raise DiskNotFound(name=f"volume {old.id} of {instance.name}")
    old = replace(old, target=present.target or old.target, alias=present.alias or old.alias)
    new = replace(old, id=_id(old, info), connection_info=info, state=VolumeState.CONNECTING)
    with volumes.held(rooms, new.id), Undo() as undo:
        volume_settling.settle(rooms, volumes.directory(rooms, instance), new.id)
        volume_checks.refuse_used(rooms, instance, info, successor_of=old.id)  # the copy would overwrite it
        undo.push("disconnect the new volume", volumes.disconnect_held, rooms, instance.uuid, new)
        rooms.progress.phase("connect")
        disk = volumes.connect(rooms, instance, new)
        _check_size(rooms, old, info, size)
        if guest.ended():
            _copy_cold(rooms, old, info)
            _redefine(guest, old, disk)
        else:
            _copy_live(rooms, guest, old, disk, info)
        undo.drop()
        done = replace(new, id=infos.volume_id(info), state=VolumeState.ATTACHED)
        record.exchange(volumes.directory(rooms, instance), (old.id, new.id), done)
    _leave(rooms, instance, old, done)
    if size and not guest.ended():
        guest.block_jobs.resize(old.target, size)


def _id(old: AttachedVolume, info: Mapping[str, Any]) -> str:
    """A volume service that moves a volume keeps its id: the two must be told apart for a while."""
    identity = infos.volume_id(info)
    return f"{identity}.new" if identity == old.id else identity


def _check_size(rooms: Rooms, old: AttachedVolume, info: Mapping[str, Any], size: int) -> None:
    there = find(rooms.connectors, info).size(info)
    before = find(rooms.connectors, old.connection_info).size(old.connection_info)
    if there < max(before, size):
        raise InvalidRequest(
            reason=f"the new volume has {format_size(there)}, and {format_size(max(before, size))} are needed"
        )


def _copy_live(rooms: Rooms, guest: Guest, old: AttachedVolume, disk: AttachedDisk, info: Mapping[str, Any]) -> None:
    from cowshed.domain.disk import disk as element

    with _as_large(disk.source, guest.block_jobs.capacity(old.target), rooms, info):
        guest.block_jobs.copy(old.target, element(disk).to_xml(), progress=rooms.progress)


@contextmanager
def _as_large(source: DiskSource, size: int, rooms: Rooms, info: Mapping[str, Any]) -> Iterator[None]:
    """QEMU mirrors to a target of the same size only (since 5.1). A larger raw file is cut for the time of the copy.

    :raises UnsupportedOperation: it is larger, and not a raw file
    """
    there = find(rooms.connectors, info).size(info)
    if there == size:
        yield
        return
    if source.type != DiskType.FILE or source.format != DiskFormat.RAW or source.path is None:
        raise UnsupportedOperation(
            subject="QEMU",
            operation=f"copy a volume of {size} bytes to one of {there} while it is in use",
            reason="it mirrors to one of the same size",
            hint="take a volume of the same size and extend it afterwards, or stop the instance first",
        )
    os.truncate(source.path, size)
    try:
        yield
    finally:
        if source.path.stat().st_size < there:
            os.truncate(source.path, there)


def _copy_cold(rooms: Rooms, old: AttachedVolume, info: Mapping[str, Any]) -> None:
    from cowshed.tools import qemu_source

    rooms.progress.phase("copy")
    source, target = find(rooms.connectors, old.connection_info), find(rooms.connectors, info)
    qemu_source.copy(
        source.connect(old.connection_info),
        target.connect(info),
        password=source.password(old.connection_info),
        target_password=target.password(info),
    )


def _redefine(guest: Guest, old: AttachedVolume, disk: AttachedDisk) -> None:
    look = volumes.finder(old)
    guest.devices.detach(look, timeout=1, attempts=1, what=old.target)
    devices.attach(guest, disk, look)


def _leave(rooms: Rooms, instance: Instance, old: AttachedVolume, new: AttachedVolume) -> None:
    """Of one id, both had one secret: the new one's is made again."""
    with volumes.held(rooms, old.id):
        if not volumes.others(rooms, instance.uuid, old):
            find(rooms.connectors, old.connection_info).disconnect(old.connection_info)
        if old.id == new.id:
            find(rooms.connectors, new.connection_info).connect(new.connection_info)
    volumes.forget_lock(rooms, old.id)
