"""Make an image of a disk: inside the storage where both can reach it, else as one stream to the image service."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

from cowshed import log
from cowshed.contract.storage import BaseKeeping, DirectUpload, Disk
from cowshed.driver.steps import locate, named
from cowshed.errors import CowshedError, ImageNotFound, PermissionDenied, UnsupportedOperation
from cowshed.model.disk import DiskFormat, DiskType
from cowshed.model.image import Image, ImageStatus, Location
from cowshed.model.instance import Instance
from cowshed.undo import Undo

if TYPE_CHECKING:
    from pathlib import Path

    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)

PENDING: Final = "image_pending_upload"
UPLOADING: Final = "image_uploading"
NOTE: Final = (
    "capture.json"  # in the instance's directory while it goes on: what a killed process must leave to be cleaned
)
COPY: Final = ".capture"  # a copy on its way, where the storage cannot be read as a stream

Tell = Callable[..., None]


def check(rooms: Rooms, instance: Instance) -> Disk:
    """The root disk, of which an image can be made now.

    :raises InstanceNotFound: :raises DiskNotFound:
    :raises UnsupportedOperation: it is encrypted; or a guest uses it, and its storage must be read through this host
    :raises InvalidState: its saved memory knows the disk
    """
    rooms.hypervisor.guest(instance.uuid)
    entry = named.one(rooms, instance)
    disk = rooms.backend(entry.backend).disk(instance.uuid, entry.name)
    if entry.encryption:
        raise UnsupportedOperation(
            subject=f"instance {instance.name}",
            operation="be made an image of",
            reason="its disk is encrypted, and the image would be useless or readable by others",
            hint=f"if others may read it: cowshed disk export {instance.name} FILE --plaintext, then cowshed image pull FILE",
        )
    if not isinstance(disk, DirectUpload):
        _refuse_running(rooms, instance, f"disks on {entry.backend} are copied when nobody writes to them")
    return disk


def _refuse_running(rooms: Rooms, instance: Instance, reason: str) -> None:
    if rooms.hypervisor.guest(instance.uuid).state() not in named.OFF:
        raise UnsupportedOperation(
            subject=f"instance {instance.name}",
            operation="be made an image of while it runs",
            reason=reason,
            hint=f"stop it first: cowshed stop {instance.name}",
        )
    named.check_off(rooms, instance, "made an image of")


def store(rooms: Rooms, instance: Instance, disk: Disk, image: Image, tell: Tell) -> Image:
    """Fill the record ``image`` with the content of ``disk``.

    :param tell: the contract's ``update_task_state``
    :return: the active record
    """
    tell(task_state=PENDING)
    with _noted(rooms, instance, image):
        if isinstance(disk, DirectUpload):
            try:
                return _inside(rooms, instance, disk, image, tell)
            except (UnsupportedOperation, PermissionDenied) as error:
                _log.info("no image inside the storage, so the disk is copied: %s", error)
                _refuse_running(rooms, instance, str(error))
        return _copied(rooms, instance, disk, image, tell)


def _inside(rooms: Rooms, instance: Instance, disk: DirectUpload, image: Image, tell: Tell) -> Image:
    """Nothing passes through this host; the image service is told where the bytes are."""
    image = replace(image, disk_format=DiskFormat.RAW)
    location = disk.upload(image.id, near=_near(rooms, instance), progress=rooms.progress)
    with Undo() as undo:
        undo.push("remove the new image from the storage", _discard, rooms, disk, image, location)
        tell(task_state=UPLOADING, expected_state=PENDING)
        undo.push("be pending again", _be_pending, tell)
        return rooms.images.add_location(image, location, progress=rooms.progress)


def _be_pending(tell: Tell) -> None:
    tell(task_state=PENDING, expected_state=UPLOADING)


def _discard(rooms: Rooms, disk: DirectUpload, image: Image, location: Location) -> None:
    """Not where the service has registered it after all, and only its answer was lost: then it is the service's."""
    try:
        registered = location.url in [one.url for one in rooms.images.locations(image)]
    except CowshedError:
        registered = False
    if registered:
        _log.warning("image %s stays: the image service has registered it", image.id)
        return
    disk.discard(location)


def _near(rooms: Rooms, instance: Instance) -> Sequence[Location]:
    """Where the bytes lie that the disk came from; nowhere when that image is gone."""
    try:
        return rooms.images.locations(locate.remembered_image(rooms, instance))
    except CowshedError as error:
        _log.info("where the image of %s lies is not known: %s", instance.name, error)
        return ()


def _copied(rooms: Rooms, instance: Instance, disk: Disk, image: Image, tell: Tell) -> Image:
    """Raw for storage that clones images, else qcow2."""
    backend = rooms.backend(named.one(rooms, instance).backend)
    wanted = DiskFormat.RAW if isinstance(backend, BaseKeeping) else DiskFormat.QCOW2
    image = replace(image, disk_format=wanted)
    with _content(rooms, instance, disk, wanted) as source:
        tell(task_state=UPLOADING, expected_state=PENDING)
        return rooms.images.upload(image, source, progress=rooms.progress)


@contextmanager
def _content(rooms: Rooms, instance: Instance, disk: Disk, format: DiskFormat) -> Iterator[BinaryIO]:
    """The disk's content as a stream; through a file without a name to find where it cannot be read in place."""
    from cowshed.tools.transfer import streams
    from cowshed.tools.transfer.export import open_layer

    source = disk.source()
    if source.type == DiskType.FILE and source.format in (DiskFormat.RAW, DiskFormat.QCOW2):
        with ExitStack() as stack:
            layer = open_layer(source, stack)
            yield cast(BinaryIO, streams.RawStream(layer) if format == DiskFormat.RAW else streams.Qcow2Stream(layer))
        return
    path = rooms.directory(instance.uuid).path / COPY
    disk.activate()
    try:
        disk.extract(path, format, progress=rooms.progress)
        with path.open("rb") as file:
            path.unlink()
            yield file
    finally:
        path.unlink(missing_ok=True)


# --- what is left when a process dies in the middle ------------------------------------------------


@contextmanager
def _noted(rooms: Rooms, instance: Instance, image: Image) -> Iterator[None]:
    from cowshed.tools import filesystem

    path = _note(rooms, instance)
    filesystem.write_atomically(path, json.dumps({"version": 1, "image": image.id}).encode())
    try:
        yield
    finally:
        filesystem.remove_file(path)


def _note(rooms: Rooms, instance: Instance) -> Path:
    return rooms.directory(instance.uuid).path / NOTE


def clean(rooms: Rooms, instance: Instance) -> None:
    """Remove what an interrupted :func:`store` has left. Whatever fails is tried again the next time."""
    from cowshed.tools import filesystem

    path = _note(rooms, instance)
    with suppress(FileNotFoundError):
        (path.parent / COPY).unlink()
    image_id = _noted_image(path)
    if image_id is None:
        return
    entry = named.one(rooms, instance)
    disk = rooms.backend(entry.backend).disk(instance.uuid, entry.name)
    if isinstance(disk, DirectUpload) and not _is_complete(rooms, image_id):
        disk.clean_upload(image_id, near=_near(rooms, instance))
    rooms.images.release(image_id)
    filesystem.remove_file(path)


def _noted_image(path: Path) -> str | None:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return str(found["image"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return None


def _is_complete(rooms: Rooms, image_id: str) -> bool:
    """:raises CowshedError: the service cannot be asked; then nothing is removed"""
    try:
        image = rooms.images.show(image_id)
    except ImageNotFound:
        return False
    return image.status == ImageStatus.ACTIVE or bool(rooms.images.locations(image))
