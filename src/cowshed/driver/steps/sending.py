"""Send the disks of a stopped instance to another host, over a command that runs cowshed there."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cowshed.driver.steps import leaving, moving, nvram, passwords, tpm, volumes
from cowshed.errors import Conflict, InvalidRequest, UnsupportedOperation
from cowshed.migration import cold
from cowshed.migration.transport import Channel
from cowshed.model.disk import DiskFormat, EncryptionFormat
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance
from cowshed.tools import sparse

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.model.disk import ManifestDisk

RAW, OVERLAY, THERE = "raw", "overlay", "there"  # overlay: the file as it is, also of a qcow2 that stands on none
SEALED = "sealed"  # the file as it is, in cipher, on its base if it has one
RESEALED = (
    "resealed"  # what a guest sees, in a file that QEMU has encrypted with the disk's key; there it gets one of its own
)


@contextmanager
def channel(rooms: Rooms, dest: str) -> Iterator[Channel]:
    """To cowshed on ``dest``.

    :raises InvalidRequest: no host has that name
    :raises ToolMissing: :raises ToolFailed: with what the command said last
    """
    from cowshed.tools import pipe

    if dest.startswith("-"):  # an option to ssh, of which some run programs on this host
        raise InvalidRequest(reason=f"{dest} is no name of a host", hint="name a host; see [migration] command")
    words = [word.replace("%s", dest) for word in rooms.config.migration.command]
    with pipe.talking([*words, "serve"]) as (reader, writer):
        yield Channel(reader, writer)


def check(rooms: Rooms, instance: Instance, entries: Mapping[str, ManifestDisk]) -> None:
    """What can be refused before the instance is stopped.

    :raises UnsupportedOperation: :raises Conflict: :raises NotFound: a key is gone
    """
    from cowshed.contract.storage import Sealing, Snapshotting

    tpm.check_leaves(rooms, instance)
    for name, entry in entries.items():
        if entry.encryption:
            rooms.keys.get(entry.encryption.key_id)
        if rooms.backend(entry.backend).traits.shared:
            continue
        disk = rooms.backend(entry.backend).disk(instance.uuid, name)
        if entry.encryption and not (may_be_sealed(entry) or isinstance(disk, Sealing)):
            raise UnsupportedOperation(
                subject=f"disk {name}",
                operation="move to another host",
                reason=f"it is encrypted, and a disk of the backend {entry.backend} cannot be sent in cipher",
                hint=f"take its content along in cipher: cowshed disk export {instance.name}",
            )
        if not keeps_snapshots(entry) and isinstance(disk, Snapshotting) and (points := disk.snapshots()):
            raise Conflict(
                reason=f"the disk {name} of {instance.name} has snapshots that would not move with it, "
                f"because the backend {entry.backend} keeps them beside it: "
                + ", ".join(point.name for point in points),
                hint=f"remove them first: cowshed disk snapshot rm {instance.name} {name} NAME",
            )


def keeps_snapshots(entry: ManifestDisk) -> bool:
    """Is it a file that has its snapshots inside? With it they move."""
    return entry.format == DiskFormat.QCOW2 and os.path.basename(entry.location) == entry.location


def may_be_sealed(entry: ManifestDisk) -> bool:
    """Is it a file that QEMU encrypts? It can be sent as it is then."""
    luks = entry.encryption is not None and entry.encryption.format == EncryptionFormat.LUKS
    return (
        luks
        and entry.format in (DiskFormat.RAW, DiskFormat.QCOW2)
        and os.path.basename(entry.location) == entry.location
    )


def offer(
    rooms: Rooms, instance: Instance, flavor: Flavor, entries: Mapping[str, ManifestDisk], to: Channel
) -> dict[str, Any]:
    """Say what would come, and what it will be run as; the other side checks, and answers how each disk shall be sent. Nothing is made there yet.

    :raises InvalidRequest: what it answers cannot be read
    """
    from cowshed.tools import filesystem

    probe = rooms.directory(instance.uuid).path / f".shared-{secrets.token_hex(16)}"
    filesystem.write_atomically(probe, b"")
    try:
        plan = to.ask(
            "receive",
            uuid=instance.uuid,
            name=instance.name,
            arch=rooms.capabilities.arch,
            memory=flavor.memory,
            probe=probe.name,
            disks=[_line(one) for one in entries.values()],
            records=leaving.records(rooms, instance),
            volumes=[leaving.volume(one) for one in volumes.recorded(rooms, instance)],
            passwords=passwords.kept(rooms, instance),
            tpm=tpm.version(rooms, instance.uuid),
            allocated={
                name: rooms.backend(one.backend).disk(instance.uuid, name).info().allocated
                for name, one in entries.items()
            },
            bases={one.base_name: _held(one.base_path) for one in entries.values() if one.base_path},
        )
    finally:
        filesystem.remove_file(probe)
    cold.check_plan(
        plan,
        disks=entries,
        modes=(RAW, OVERLAY, THERE, SEALED, RESEALED),
        bases={one.base_name for one in entries.values() if one.base_path},
        sealed={name for name, one in entries.items() if one.encryption},
    )
    return plan


def _held(path: str) -> int:
    """Bytes; 0 where it is no file."""
    try:
        return sparse.allocated(Path(path))
    except OSError:
        return 0


def _line(entry: ManifestDisk) -> dict[str, Any]:
    return leaving.whole_line(entry) if keeps_snapshots(entry) else leaving.line(entry)


def send(
    rooms: Rooms, instance: Instance, entries: Mapping[str, ManifestDisk], plan: Mapping[str, Any], to: Channel
) -> None:
    """The content of all that ``plan`` (the other side's answer) asks for. The guest is off: firmware and TPM write while it goes down.

    :raises CowshedError: here or there; nothing is left there then
    """
    keys = {name: _key(rooms, entries[name]) for name in plan["keys"]}
    variables, remembered = nvram.packed(rooms, instance.uuid), tpm.packed(rooms, instance.uuid)
    to.say({"go": True, "keys": keys, "nvram": variables, "tpm": remembered})
    for name in plan["bases"]:
        _send_file(rooms, next(one.base_path for one in entries.values() if one.base_name == name) or "", to)
    for name, mode in plan["modes"].items():
        rooms.progress.check()
        if mode in (OVERLAY, SEALED):
            _send_file(rooms, str(rooms.directory(instance.uuid).path / entries[name].location), to)
        elif mode in (RAW, RESEALED):  # an encrypted one is extracted in cipher
            _send_raw(rooms, instance, entries[name], to)
    to.hear()


def _key(rooms: Rooms, entry: ManifestDisk) -> str:
    assert entry.encryption is not None
    return base64.b64encode(rooms.keys.get(entry.encryption.key_id)).decode()


def _send_raw(rooms: Rooms, instance: Instance, entry: ManifestDisk, to: Channel) -> None:
    """What a guest sees of it, in one piece."""
    directory = rooms.directory(instance.uuid).path
    if entry.format == DiskFormat.RAW and (directory / entry.location).is_file():
        return _send_file(rooms, str(directory / entry.location), to)
    with moving.scratch(directory) as path:
        disk = rooms.backend(entry.backend).disk(instance.uuid, entry.name)
        disk.extract(path, DiskFormat.RAW, progress=rooms.progress)
        _send_file(rooms, str(path), to)


def _send_file(rooms: Rooms, path: str, to: Channel) -> None:
    from cowshed.tools import filesystem

    fd = filesystem.open_regular(Path(path))
    try:
        rooms.progress.phase("send", os.fstat(fd).st_blocks * 512)
        to.send(fd, rooms.progress)
    finally:
        os.close(fd)
