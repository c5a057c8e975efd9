"""How one disk of another host is taken in, whichever way it comes. What fails leaves nothing of it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed.contract.storage import Importing, Sealing
from cowshed.driver.steps import moving
from cowshed.errors import CowshedError, DataCorrupt
from cowshed.model.disk import Base, DiskFormat, DiskSource, DiskType, ManifestDisk
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.migration.transport import Channel


def overlay(directory: Path, entry: ManifestDisk, base: Base | None, peer: Channel) -> None:
    """The file as it is there, standing on this host's base, if on any. Nothing opens it before its header has been looked at."""
    import os

    from cowshed.disks import manifest
    from cowshed.tools import filesystem, qemu_img

    with filesystem.publish(directory / entry.name) as new:
        peer.receive(new.fd, _most(entry))
        check_qcow2(new.fd, directory / entry.name, entry)
        if base:
            qemu_img.name_base(new.path, DiskFormat.QCOW2, base.path, base.format)
        os.fsync(new.fd)
        with manifest.recording(directory, _placed(entry, base)):
            new.commit()
            filesystem.sync_directory(directory)


def _most(entry: ManifestDisk) -> int:
    """Bytes of the file of a disk, however it is laid out."""
    return 2 * entry.virtual_size + sum(one.virtual_size for one in entry.snapshots) + (1 << 30)


def _placed(entry: ManifestDisk, base: Base | None) -> ManifestDisk:
    if base is None:
        return replace(entry, location=entry.name)
    return replace(entry, location=entry.name, base_path=str(base.path.absolute()), base_format=base.format)


def check_qcow2(fd: int, path: Path, entry: ManifestDisk) -> None:
    """:raises DataCorrupt: it is not what was said"""
    from cowshed.disks.qcow2 import tag
    from cowshed.tools import qcow2
    from cowshed.tools.qcow2.header import refuse_unsafe

    try:
        header = qcow2.read_header(fd)
        own = replace(header, backing=None, snapshots=0)  # it is no image from outside: both may be
        refuse_unsafe(own, sealed=entry.encryption is not None)
        inside = {one.name for one in qcow2.read_snapshots(fd)} if entry.snapshots else set()
    except qcow2.QcowError as error:
        raise DataCorrupt(path=path, reason=str(error)) from error
    if header.size != entry.virtual_size:
        raise DataCorrupt(path=path, reason=f"it is of {header.size} bytes, and said to be of {entry.virtual_size}")
    if lost := [one.name for one in entry.snapshots if tag(one.name) not in inside]:
        raise DataCorrupt(path=path, reason=f"the snapshots {', '.join(lost)} are not in it")


def stays(rooms: Rooms, directory: Path, entry: ManifestDisk, keys: Mapping[str, bytes]) -> None:
    """A disk that this host sees where it is: its line, and its key under an id of this host's own.

    So neither host removes the other's, wherever they keep them. The line comes first: a key that it does not
    name could never be found again.
    """
    from cowshed.disks import manifest

    if entry.encryption is None:
        return manifest.record(directory, entry)
    own = replace(entry.encryption, key_id=str(uuid.uuid4()))
    manifest.record(directory, replace(entry, encryption=own))
    rooms.keys.keep(own.key_id, keys[entry.name])


@contextmanager
def _kept(rooms: Rooms, key_id: str, key: bytes) -> Iterator[None]:
    """The key of the disk that the block makes; an error takes it away again."""
    rooms.keys.keep(key_id, key)
    try:
        yield
    except BaseException:
        with suppress(CowshedError):
            rooms.keys.delete(key_id)
        raise


def sealed(rooms: Rooms, directory: Path, entry: ManifestDisk, base: Base | None, key: bytes, peer: Channel) -> None:
    """The encrypted file as it is there; the announced line tells who clears up which key it has."""
    import os

    from cowshed.disks import manifest
    from cowshed.tools import filesystem, luks

    assert entry.encryption is not None
    encryption, path = replace(entry.encryption, key_id=str(uuid.uuid4())), directory / entry.name
    placed = replace(_placed(entry, base), encryption=encryption)
    with (
        manifest.announcing(directory, placed, taken=path.exists),
        _kept(rooms, encryption.key_id, key),
        filesystem.publish(path) as new,
    ):
        peer.receive(new.fd, _most(entry))
        if entry.format == DiskFormat.QCOW2:
            check_qcow2(new.fd, path, entry)
        else:
            _check_luks(new.fd, path, entry)
        if base:
            source = DiskSource(DiskType.FILE, entry.format, new.path, encryption=encryption)
            luks.name_base(source, base.path, base.format, rooms.keys.get)
        os.fsync(new.fd)
        with manifest.recording(directory, placed):
            new.commit()
            filesystem.sync_directory(directory)


def raw(rooms: Rooms, instance: Instance, entry: ManifestDisk, peer: Channel) -> None:
    disk = rooms.backend(entry.backend).disk(instance.uuid, entry.name)
    assert isinstance(disk, Importing)
    with _received(rooms, instance, entry.virtual_size, peer) as path:
        disk.import_file(path)


def resealed(rooms: Rooms, instance: Instance, entry: ManifestDisk, key: bytes, peer: Channel) -> None:
    """A disk that is encrypted by other means than QEMU's: it comes in cipher, and gets a key of its own."""
    disk = rooms.backend(entry.backend).disk(instance.uuid, entry.name)
    assert isinstance(disk, Sealing)
    with _received(rooms, instance, _most(entry), peer) as path:
        with path.open("rb") as file:
            _check_luks(file.fileno(), path, entry)
        disk.import_sealed(path, key, progress=rooms.progress)


@contextmanager
def _received(rooms: Rooms, instance: Instance, most: int, peer: Channel) -> Iterator[Path]:
    """What comes, at most ``most`` bytes, as a file of the block, which nobody has open."""
    import os

    with moving.scratch(rooms.directory(instance.uuid).path) as path:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            peer.receive(fd, most)
        finally:
            os.close(fd)
        yield path


def _check_luks(fd: int, path: Path, entry: ManifestDisk) -> None:
    """:raises DataCorrupt: it is not what was said"""
    import os

    from cowshed.tools import luks_header

    if os.fstat(fd).st_size - luks_header.payload_offset(fd, path) != entry.virtual_size:
        raise DataCorrupt(path=path, reason=f"it does not hold the {entry.virtual_size} bytes it is said to")
