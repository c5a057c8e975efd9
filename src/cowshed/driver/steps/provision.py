"""Make the disks of an instance. Backends meet images here, and in ``bases``, and nowhere else."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeAlias

from cowshed.contract.storage import Disk
from cowshed.driver.steps import bases
from cowshed.driver.steps.disk_names import CONFIG_DRIVE, LOCAL_BACKEND
from cowshed.driver.steps.layout import Plan, Planned
from cowshed.errors import Busy, DiskTooSmall, InvalidRequest, NameTaken, UnsupportedOperation
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif
from cowshed.undo import Undo
from cowshed.units import format_size

if TYPE_CHECKING:
    from cowshed.disks.file import FileDisk
    from cowshed.driver.rooms import Rooms

Metadata: TypeAlias = tuple[Mapping[str, bytes], str]  # files and label of a config drive


def check_sizes(instance: Instance, image: Image) -> None:
    """Before anything is fetched: the disk holds the image, the memory is what the image asks for.

    :raises DiskTooSmall: :raises InvalidRequest:
    """
    root = instance.flavor.root
    needed = max(image.min_disk, 0 if image.disk_format == DiskFormat.ISO else image.virtual_size)
    if root and root < needed:
        raise DiskTooSmall(
            disk="disk", size=root, needed=needed, hint=f"ask for a disk of at least {format_size(needed)}"
        )
    if instance.flavor.memory < image.min_ram:
        raise InvalidRequest(
            reason=f"image {image.name or image.id} needs {format_size(image.min_ram)} of memory",
            hint=f"ask for at least {format_size(image.min_ram)}",
        )


def directory(rooms: Rooms, instance: Instance, undo: Undo, *, new: bool = False) -> None:
    """:param new: every disk that its manifest will name is made here, and none belongs to another host"""
    place = rooms.directory(instance.uuid)
    # It was looked for: there was none.
    if new:
        undo.push("remove the instance directory", _delete_directory, rooms, instance)
    else:
        undo.push("remove the instance directory", place.delete)
    place.create()


def _delete_directory(rooms: Rooms, instance: Instance) -> None:
    """:raises Busy: its manifest names a disk that lies elsewhere and could not be deleted: nothing else would find it"""
    from cowshed.disks import manifest
    from cowshed.disks.file import FileBackend

    place = rooms.directory(instance.uuid)
    for name, entry in manifest.load(place.path).disks.items():
        if not isinstance(rooms.backends.get(entry.backend), FileBackend):
            raise Busy(what=str(place.path), holder=f"{name} at {entry.location}, which is not deleted yet")
    place.delete()


def disks(rooms: Rooms, instance: Instance, image: Image, plan: Plan, undo: Undo) -> None:
    """Make every disk of ``plan`` except the config drive, each undone on failure."""
    for planned in plan.disks:
        if planned.spec.name.startswith(CONFIG_DRIVE):
            continue
        rooms.progress.check()
        disk = rooms.backend(planned.spec.backend).disk(instance.uuid, planned.spec.name)
        if disk.exists():  # in a storage that others use too: whatever it is, this call has not made it
            raise NameTaken(kind="disk", name=f"{disk.name} of instance {instance.name}")
        with taken_back(undo, disk):
            _make(rooms, instance, image, planned)


@contextmanager
def taken_back(undo: Undo, disk: Disk) -> Iterator[None]:
    """The disk that the block makes goes with ``undo``. One that was there before is somebody's, and stays."""
    ours = [disk]
    undo.push(f"delete {disk.name}", _delete_all, ours)
    try:
        yield
    except NameTaken:
        ours.clear()
        raise


def _delete_all(disks: list[Disk]) -> None:
    for disk in disks:
        disk.delete()


def _make(rooms: Rooms, instance: Instance, image: Image, planned: Planned) -> None:
    from cowshed.disks import blank

    spec = planned.spec
    backend = rooms.backend(spec.backend)
    disk = backend.disk(instance.uuid, spec.name)
    if spec.image_id:
        source = image if spec.image_id == image.id else rooms.images.show(spec.image_id)
        bases.make(rooms, backend, disk, source, spec.size, encrypt=spec.encrypt)
    elif spec.filesystem:
        place = rooms.directory(instance.uuid).path
        blank.create(
            disk, spec.size, filesystem_type=spec.filesystem, label=spec.label, place=place, encrypt=spec.encrypt
        )
    else:
        disk.create(spec.size, encrypt=spec.encrypt, progress=rooms.progress)


def metadata(
    rooms: Rooms,
    instance: Instance,
    image: Image,
    plan: Plan,
    vifs: Sequence[Vif],
    injected_files: Sequence[tuple[str, bytes | str]],
    admin_password: str | None,
) -> Metadata | None:
    """What cloud-init shall read in the guest: files and label; None without a config drive. Nothing is made.

    :raises InvalidRequest: user data that cannot be, before an image is fetched for it
    """
    if not any(planned.spec.name.startswith(CONFIG_DRIVE) for planned in plan.disks):
        return None
    from cowshed.disks import metadata as files

    return files.build(
        instance,
        image,
        vifs,
        injected_files=injected_files,
        admin_password=admin_password,
        datasource=instance.system_metadata.get("datasource") or rooms.config.guest.datasource,
    )


def config_drive(
    rooms: Rooms, instance: Instance, data: Metadata | None, name: str = CONFIG_DRIVE, *, encrypt: bool = False
) -> None:
    """Local, read-only, readable by nobody else; encrypted like the disks, for it carries passwords."""
    if data is None:
        return
    from cowshed.disks import config_drive as drive

    files, label = data
    drive.create(file_of(rooms.backend(LOCAL_BACKEND).disk(instance.uuid, name)), files, label, encrypt=encrypt)


def file_of(disk: Disk) -> FileDisk:
    """:raises UnsupportedOperation: it does not live in a file"""
    from cowshed.disks.file import FileDisk

    if not isinstance(disk, FileDisk):
        raise UnsupportedOperation(subject=f"disk {disk.name}", operation="take over a file", reason="it is not a file")
    return disk
