"""Disks of a running guest as they are now, in scratch files beside the instance for as long as somebody reads them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cowshed.driver.steps import named, quiet, shown
from cowshed.errors import DiskNotFound
from cowshed.model.disk import DiskFormat, DiskSource, DiskType
from cowshed.model.instance import Instance
from cowshed.units import MiB

if TYPE_CHECKING:
    from cowshed.contract.storage import Disk
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest

SCRATCH: Final = ".capture."  # before the name of the disk, in the instance's directory
_MARGIN: Final = 16 * MiB  # for the format's own tables, and a guest that writes meanwhile
_TABLES: Final = 1024  # bytes of data for one of tables, and more


def check(rooms: Rooms, instance: Instance, disks: Sequence[Disk]) -> None:
    """:raises InvalidState: it cannot be quiesced and must be :raises DiskNotFound: the guest does not have a disk
    :raises NoSpace: the scratch files would not fit
    """
    from cowshed.tools import filesystem

    guest = rooms.hypervisor.guest(instance.uuid)
    if quiet.demanded(rooms, instance):
        quiet.agent(guest, "quiesced")
    _targets(rooms, instance, guest, disks)
    filesystem.check_space(rooms.directory(instance.uuid).path, sum(_needed(rooms, disk) for disk in disks))


def _needed(rooms: Rooms, disk: Disk) -> int:
    """Bytes of a file with all its data and that of its base; never more than it is large."""
    from cowshed.tools import sparse

    info = disk.info()
    held = info.allocated
    source = disk.source().backing
    while source:
        held += sparse.allocated(source.path) if source.path else info.virtual_size
        source = source.backing
    data = min(info.virtual_size, held)
    return data + data // _TABLES + _MARGIN


def _targets(rooms: Rooms, instance: Instance, guest: Guest, disks: Sequence[Disk]) -> dict[str, str]:
    """Name of each disk -> its target in the running guest, which may have been rescued or changed since."""
    from cowshed.domain.domain import Domain

    present = {one.alias: one.target for one in Domain.parse(guest.xml()).disks}
    found = {}
    for disk in disks:
        target = present.get(shown.alias(disk.name))
        if target is None:
            raise DiskNotFound(name=f"{disk.name} in the running guest of instance {instance.name}")
        found[disk.name] = target
    return found


@contextmanager
def taken(rooms: Rooms, instance: Instance, disks: Sequence[Disk]) -> Iterator[Mapping[str, DiskSource]]:
    """Name of each disk -> its content at one point in time, standalone. The files are gone after the block.

    The guest is quiesced for the moment when the copy begins, and goes on while it is made.

    :raises InvalidState: it ended, or another job goes on :raises HypervisorError: the copy failed :raises NoSpace:
    """
    from cowshed.hypervisor.backup import Backup
    from cowshed.tools import filesystem

    check(rooms, instance, disks)
    guest = rooms.hypervisor.guest(instance.uuid)
    targets = _targets(rooms, instance, guest, disks)
    paths = {disk.name: path(rooms, instance, disk.name) for disk in disks}
    try:
        for disk in disks:
            _blank(paths[disk.name], guest.block_jobs.capacity(targets[disk.name]))
        with Backup(guest, {targets[name]: file for name, file in paths.items()}) as backup:
            with quiet.quiet(guest, demanded=quiet.demanded(rooms, instance)):
                backup.begin()
            backup.finish(rooms.progress)
        yield {name: DiskSource(DiskType.FILE, DiskFormat.QCOW2, file) for name, file in paths.items()}
    finally:
        for file in paths.values():
            filesystem.remove_file(file)


def path(rooms: Rooms, instance: Instance, name: str) -> Path:
    return rooms.directory(instance.uuid).path / f"{SCRATCH}{name}"


def _blank(file: Path, size: int) -> None:
    from cowshed.tools import filesystem
    from cowshed.tools.qcow2 import overlay

    with filesystem.publish(file, mode=0o600, sync=False) as new:
        overlay.create_blank(new.fd, size=size)


def runs(rooms: Rooms, instance: Instance) -> bool:
    """Does a guest have the disks open, so that they must be copied by QEMU?

    :raises InvalidState: its saved memory knows them
    """
    if rooms.hypervisor.guest(instance.uuid).state() not in named.OFF:
        return True
    named.check_off(rooms, instance, "made an image of")
    return False


def clean(rooms: Rooms, instance: Instance, *, frozen: bool) -> None:
    """End the copy that a killed process has begun, thaw the guest, remove the scratch files."""
    from cowshed.hypervisor import backup
    from cowshed.tools import filesystem

    place = rooms.directory(instance.uuid).path
    scratch = list(place.glob(f"{SCRATCH}*"))
    if (scratch or frozen) and (guest := rooms.hypervisor.find(instance.uuid)) and guest.state() not in named.OFF:
        if any(file.parent == place and file.name.startswith(SCRATCH) for file in backup.files(guest)):
            backup.give_up(guest)
        if frozen:
            quiet.thaw_left(guest)
    for file in scratch:
        filesystem.remove_file(file)
