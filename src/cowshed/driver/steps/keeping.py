"""Disks as they were before a resize, kept for a revert: small where the storage can share, whole where it cannot.

A qcow2 file is copied (a snapshot inside it could not be removed while the guest runs); every other disk
keeps a snapshot of the name below.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cowshed import log
from cowshed.contract.storage import Snapshotting
from cowshed.errors import CowshedError, SnapshotNotFound, UnsupportedOperation
from cowshed.model.disk import DiskFormat
from cowshed.model.instance import Instance
from cowshed.tools import filesystem, reflink, sparse

if TYPE_CHECKING:
    from cowshed.contract.storage import Disk
    from cowshed.driver.rooms import Rooms
    from cowshed.model.disk import ManifestDisk

_log = log.logger(__name__)

SNAPSHOT: Final = "before-resize"
FOLDER: Final = "before-resize"


def check(rooms: Rooms, instance: Instance, entries: Iterable[ManifestDisk]) -> None:
    """:raises UnsupportedOperation: one cannot be kept"""
    for entry in entries:
        disk = _disk(rooms, instance.uuid, entry)
        if not _is_qcow2(entry) and not isinstance(disk, Snapshotting):
            raise UnsupportedOperation(
                subject=f"disk {entry.name}", operation="be kept for a revert", reason="it has no snapshots"
            )


def keep(rooms: Rooms, instance: Instance, entry: ManifestDisk) -> None:
    """The disk as it is now; kept already is success. :raises NoSpace:"""
    disk = _disk(rooms, instance.uuid, entry)
    if _is_qcow2(entry):
        return _copy(rooms, instance.uuid, entry)
    assert isinstance(disk, Snapshotting)
    if not any(one.name == SNAPSHOT for one in disk.snapshots()):
        disk.take(SNAPSHOT, progress=rooms.progress)


def give_back(rooms: Rooms, uuid: str, entry: ManifestDisk) -> None:
    """Content and size of then. Not kept, or given back already, is success."""
    from cowshed.disks import manifest

    disk = _disk(rooms, uuid, entry)
    if _is_qcow2(entry):
        place = _folder(rooms, uuid) / entry.name
        if place.exists():
            directory = rooms.directory(uuid).path
            filesystem.rename(place, directory / entry.location, replace=True)
            filesystem.sync_directory(directory)
            manifest.record(directory, entry)
        return
    if isinstance(disk, Snapshotting) and any(one.name == SNAPSHOT for one in disk.snapshots()):
        disk.roll_back(SNAPSHOT, progress=rooms.progress)
        disk.remove(SNAPSHOT)


def give_up(rooms: Rooms, uuid: str, entry: ManifestDisk) -> None:
    """Nothing goes back any more; not kept is success."""
    if _is_qcow2(entry):
        return filesystem.remove_file(_folder(rooms, uuid) / entry.name)
    disk = _disk(rooms, uuid, entry)
    if isinstance(disk, Snapshotting):
        try:
            disk.remove(SNAPSHOT)
        except SnapshotNotFound:
            return None
    return None


def clear(rooms: Rooms, uuid: str) -> None:
    folder = _folder(rooms, uuid)
    if folder.exists():
        filesystem.remove_tree(folder, folder.with_name(f"{FOLDER}-gone"))


def quietly(rooms: Rooms, uuid: str, entry: ManifestDisk) -> None:
    try:
        give_up(rooms, uuid, entry)
    except CowshedError as error:
        _log.warning("what was kept of %s is still there: %s", entry.name, error)


def _copy(rooms: Rooms, uuid: str, entry: ManifestDisk) -> None:
    folder = _folder(rooms, uuid)
    filesystem.make_directory(folder, mode=0o700)
    if (folder / entry.name).exists():
        return
    source = filesystem.open_regular(rooms.directory(uuid).path / entry.location)
    try:
        with filesystem.publish(folder / entry.name, unnamed=True) as new:
            if not reflink.clone(source, new.fd):
                data = os.fstat(source).st_blocks * 512
                filesystem.check_space(folder, data)
                rooms.progress.phase("copy", data)
                sparse.copy(source, new.fd, progress=rooms.progress)
            new.commit()
        filesystem.sync_directory(folder)
    finally:
        os.close(source)


def _is_qcow2(entry: ManifestDisk) -> bool:
    return entry.format == DiskFormat.QCOW2


def _disk(rooms: Rooms, uuid: str, entry: ManifestDisk) -> Disk:
    return rooms.backend(entry.backend).disk(uuid, entry.name)


def _folder(rooms: Rooms, uuid: str) -> Path:
    return rooms.directory(uuid).path / FOLDER
