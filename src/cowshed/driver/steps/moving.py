"""Move a disk to another backend. The instance is off, and nobody else works on it.

The new disk is made beside the old one under a name of its own (``disk.lvm``), and compared with it.
Then one change of the manifest makes it the disk, and the old one something left over
(``disk.was-qcow2``), which is removed. Killed at any step, the instance has the old disk or the new
one whole, and :func:`settle` removes the other.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.contract.storage import Importing, Snapshotting
from cowshed.driver.steps import reachable, replacing
from cowshed.errors import Conflict, CowshedError, DataCorrupt, NameTaken, NoSpace, UnsupportedOperation
from cowshed.model.disk import DiskFormat, DiskSource, DiskType, ManifestDisk
from cowshed.model.instance import Instance
from cowshed.tools import filesystem
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.contract.storage import Disk
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)

SCRATCH = ".moving-"


def is_left(entry: ManifestDisk) -> bool:
    """Is it the new disk of a move that did not end, or the old one of a move that did?"""
    return entry.name.endswith((f".{entry.backend}", f".was-{entry.backend}"))


def settle(rooms: Rooms, instance: Instance) -> None:
    """Remove what killed moves of this instance left, and give files their usual names. The instance is off.

    What fails is logged and tried again the next time.
    """
    from cowshed.disks import manifest

    directory = rooms.directory(instance.uuid).path
    for entry in manifest.load(directory).disks.values():
        if is_left(entry):
            _remove_left(rooms, instance, entry.name)
        elif not replacing.is_second(entry.name):  # the old disk of a rebuild goes soon, by the name its file has
            _name_as_usual(rooms, instance, entry)
    for path in directory.glob(f"{SCRATCH}*"):
        filesystem.remove_file(path)


def _name_as_usual(rooms: Rooms, instance: Instance, entry: ManifestDisk) -> None:
    from cowshed.disks.file import FileDisk

    made = rooms.directory(instance.uuid).path / _new_name(entry, entry.backend)
    if entry.location == entry.name and not made.is_file():
        return
    try:
        disk = rooms.backend(entry.backend).disk(instance.uuid, entry.name)
        if isinstance(disk, FileDisk):
            disk.take_name()
    except CowshedError as error:
        _log.warning("the file of %s of %s keeps its name: %s", entry.name, instance.name, error)


def _remove_left(rooms: Rooms, instance: Instance, name: str) -> None:
    """Only by its line in the manifest: without that the file of this name may be the instance's disk."""
    from cowshed.disks import manifest

    try:
        entry = manifest.find(rooms.directory(instance.uuid).path, name)
        if entry and is_left(entry):
            rooms.backend(entry.backend).disk(instance.uuid, name).delete()
    except CowshedError as error:
        _log.warning("%s of %s is still there: %s", name, instance.name, error)


def _discard(rooms: Rooms, instance: Instance, entry: ManifestDisk, to: str) -> None:
    """The new disk of a move that broke; an interruption may have come before or after its line was written."""
    from cowshed.disks import manifest

    if manifest.require(rooms.directory(instance.uuid).path, entry.name).backend == entry.backend:
        rooms.backend(to).disk(instance.uuid, _new_name(entry, to)).delete()


def check(rooms: Rooms, instance: Instance, entry: ManifestDisk, to: str) -> None:
    """Whatever can be refused before anything is made.

    :raises ConfigError: :raises InvalidRequest: there is no such backend here
    :raises UnsupportedOperation: :raises Conflict: the disk has something that does not move with it
    :raises NoSpace: it holds more than is free there
    """
    backend = rooms.backend(to)
    reachable.check(rooms, to)
    disk = rooms.backend(entry.backend).disk(instance.uuid, entry.name)
    if not isinstance(backend.disk(instance.uuid, _new_name(entry, to)), Importing):
        raise UnsupportedOperation(subject=f"backend {to}", operation="take over a disk", reason="it has no way to")
    if entry.encryption:
        raise UnsupportedOperation(
            subject=f"disk {entry.name}",
            operation="be moved",
            reason="it is encrypted, and its content would lie in plain text on the way",
        )
    if isinstance(disk, Snapshotting) and (points := disk.snapshots()):
        names = ", ".join(point.name for point in points)
        raise Conflict(
            reason=f"the disk {entry.name} of {instance.name} has snapshots that would not move with it: {names}",
            hint=f"remove them first: cowshed disk snapshot rm {instance.name} {entry.name} NAME",
        )
    needed, free = disk.info().allocated, backend.capacity().free
    if needed > free:
        raise NoSpace(place=f"the backend {to}", needed=needed, free=free, hint="free some space there")


def move(rooms: Rooms, instance: Instance, entry: ManifestDisk, to: str) -> None:
    """:raises DataCorrupt: what the new disk holds is not what the old one holds; the old one stays

    :raises NoSpace: :raises NameTaken: and what the two backends raise; the old disk stays
    """
    from cowshed.disks import manifest

    directory = rooms.directory(instance.uuid).path
    old = rooms.backend(entry.backend).disk(instance.uuid, entry.name)
    new = rooms.backend(to).disk(instance.uuid, _new_name(entry, to))
    if new.exists():
        raise NameTaken(kind="disk", name=f"{new.name} of instance {instance.name}")
    with Undo() as undo:
        undo.push(f"remove {new.name}", _discard, rooms, instance, entry, to)
        with scratch(directory) as path:
            old.extract(path, DiskFormat.RAW, progress=rooms.progress)
            expected = _digest(rooms, old, entry.virtual_size, directory, spare=path)
            rooms.progress.phase("import", entry.virtual_size)
            assert isinstance(new, Importing)
            new.import_file(path)
        _compare(rooms, new, entry, directory, expected)
        rooms.progress.check()
        _exchange(directory, entry, new.name)
    _remove_left(rooms, instance, _old_name(entry))
    _name_as_usual(rooms, instance, manifest.require(directory, entry.name))


def _new_name(entry: ManifestDisk, to: str) -> str:
    return f"{entry.name}.{to}"


def _old_name(entry: ManifestDisk) -> str:
    return f"{entry.name}.was-{entry.backend}"


def _exchange(directory: Path, entry: ManifestDisk, new_name: str) -> None:
    """The one step that makes the new disk the disk."""
    from cowshed.disks import manifest

    with manifest.editing(directory) as disks:
        made = disks.pop(new_name)
        disks[entry.name] = replace(made, name=entry.name, image_id=entry.image_id)
        disks[_old_name(entry)] = replace(entry, name=_old_name(entry))


def _compare(rooms: Rooms, new: Disk, entry: ManifestDisk, directory: Path, expected: str) -> None:
    actual = _digest(rooms, new, entry.virtual_size, directory)
    if actual != expected:
        raise DataCorrupt(
            path=f"the copy of {entry.name}",
            reason=f"it reads back as {actual}, and the disk as {expected}",
            hint="the disk is as it was; the storage of the copy may be broken",
        )


def _digest(rooms: Rooms, disk: Disk, size: int, place: Path, *, spare: Path | None = None) -> str:
    """Over the first ``size`` bytes that a guest sees, read from the disk itself where it is a file.

    :param spare: a copy of it that is there anyway, for a disk that is none
    """
    from cowshed.tools import transfer

    source = disk.source()
    rooms.progress.phase("verify", size)
    if source.type == DiskType.FILE and source.format in (DiskFormat.RAW, DiskFormat.QCOW2):
        return transfer.digest_of_source(source, size=size, progress=rooms.progress)
    if spare:
        return transfer.digest_of_source(_plain(spare), size=size, progress=rooms.progress)
    with scratch(place) as path:
        disk.extract(path, DiskFormat.RAW, progress=rooms.progress)
        rooms.progress.phase("verify", size)
        return transfer.digest_of_source(_plain(path), size=size, progress=rooms.progress)


def _plain(path: Path) -> DiskSource:
    return DiskSource(DiskType.FILE, DiskFormat.RAW, path)


@contextmanager
def scratch(place: Path) -> Iterator[Path]:
    """A name for a file of the block, in the directory of the instance, so that a disk there can take it over."""
    path = place / f"{SCRATCH}{os.getpid()}-{uuid.uuid4().hex[:8]}"
    try:
        yield path
    finally:
        filesystem.remove_file(path)
