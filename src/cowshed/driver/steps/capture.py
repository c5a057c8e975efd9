"""Make images of disks: inside the storage where both can reach it, else as one stream each to the image service."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, BinaryIO, Final, cast

from cowshed import log
from cowshed.contract.storage import BaseKeeping, DirectUpload, Disk
from cowshed.driver.steps import capture_live, disk_names, locate, named, quiet
from cowshed.driver.steps.capture_note import noted
from cowshed.errors import CowshedError, PermissionDenied, UnsupportedOperation
from cowshed.model.disk import DiskFormat, DiskSource, DiskType, ManifestDisk
from cowshed.model.image import Image, Location
from cowshed.model.instance import Instance
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)

PENDING: Final = "image_pending_upload"
UPLOADING: Final = "image_uploading"
COPY: Final = ".capture"  # a copy on its way, where the storage cannot be read as a stream

Tell = Callable[..., None]


def check(rooms: Rooms, instance: Instance, *, all_disks: bool = False) -> list[Disk]:
    """The root disk, or every disk the guest writes to (root first; no swap), of which images can be made now.

    :raises InstanceNotFound: :raises DiskNotFound: :raises NoSpace: for what is copied of a running guest
    :raises UnsupportedOperation: one is encrypted; or the guest must be quiesced and has no agent
    :raises InvalidState: its saved memory knows them, or it is paused and must be quiesced
    """
    rooms.hypervisor.guest(instance.uuid)
    entries = _all(rooms, instance) if all_disks else [named.one(rooms, instance)]
    _refuse_encrypted(instance, entries)
    disks = [rooms.backend(entry.backend).disk(instance.uuid, entry.name) for entry in entries]
    direct = not all_disks and isinstance(disks[0], DirectUpload)
    if not direct and capture_live.runs(rooms, instance):
        capture_live.check(rooms, instance, disks)
    elif direct and _running(rooms, instance) and quiet.demanded(rooms, instance):
        quiet.agent(rooms.hypervisor.guest(instance.uuid), "quiesced")
    return disks


def _all(rooms: Rooms, instance: Instance) -> list[ManifestDisk]:
    root = named.one(rooms, instance)
    found = [entry for entry in named.all_changeable(rooms, instance) if not entry.name.endswith(disk_names.RESCUED)]
    return [root, *(entry for entry in found if entry.name not in (root.name, disk_names.SWAP))]


def _refuse_encrypted(instance: Instance, entries: Sequence[ManifestDisk]) -> None:
    if any(entry.encryption for entry in entries):
        raise UnsupportedOperation(
            subject=f"instance {instance.name}",
            operation="be made an image of",
            reason="its disk is encrypted, and the image would be useless or readable by others",
            hint=f"if others may read it: cowshed disk export {instance.name} FILE --plaintext, then cowshed image pull FILE",
        )


def _running(rooms: Rooms, instance: Instance) -> bool:
    return rooms.hypervisor.guest(instance.uuid).state() not in named.OFF


def store(rooms: Rooms, instance: Instance, disk: Disk, image: Image, tell: Tell) -> Image:
    """Fill the record ``image`` with the content of ``disk``.

    :param tell: the contract's ``update_task_state``
    :return: the active record
    :raises Busy: somebody else makes an image of the instance
    """
    with noted(rooms, instance, [image], set=False, live=_running(rooms, instance)):
        tell(task_state=PENDING)
        if isinstance(disk, DirectUpload):
            try:
                return _inside(rooms, instance, disk, image, tell)
            except (UnsupportedOperation, PermissionDenied) as error:
                _log.info("no image inside the storage, so the disk is copied: %s", error)
        with _sources(rooms, instance, [disk]) as sources:
            return _sent(rooms, instance, disk, sources.get(disk.name), image, tell)


def store_set(rooms: Rooms, instance: Instance, wanted: Sequence[tuple[Disk, Image]]) -> list[Image]:
    """The same for several disks at one point in time; whatever fails, the caller takes back what was made."""
    disks, images = [disk for disk, _ in wanted], [image for _, image in wanted]
    with (
        noted(rooms, instance, images, set=True, live=_running(rooms, instance)),
        _sources(rooms, instance, disks) as sources,
    ):
        return [_sent(rooms, instance, disk, sources.get(disk.name), image, _nobody) for disk, image in wanted]


def _nobody(**_: object) -> None:
    """Nobody follows the task states."""


# --- inside the storage ---------------------------------------------------------------------------


def _inside(rooms: Rooms, instance: Instance, disk: DirectUpload, image: Image, tell: Tell) -> Image:
    """Nothing passes through this host; the image service is told where the bytes are."""
    image = replace(image, disk_format=DiskFormat.RAW)
    still = _still(rooms, instance)
    location = disk.upload(image.id, near=near(rooms, instance), still=still, progress=rooms.progress)
    with Undo() as undo:
        undo.push("remove the new image from the storage", _discard, rooms, disk, image, location)
        tell(task_state=UPLOADING, expected_state=PENDING)
        undo.push("be pending again", _be_pending, tell)
        return rooms.images.add_location(image, location, progress=rooms.progress)


def _still(rooms: Rooms, instance: Instance) -> AbstractContextManager[None] | None:
    """The guest is quiesced while the storage takes its snapshot."""
    if not _running(rooms, instance):
        return None
    return quiet.quiet(rooms.hypervisor.guest(instance.uuid), demanded=quiet.demanded(rooms, instance))


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


def near(rooms: Rooms, instance: Instance) -> Sequence[Location]:
    """Where the bytes lie that the disk came from; nowhere when that image is gone."""
    try:
        return rooms.images.locations(locate.remembered_image(rooms, instance))
    except CowshedError as error:
        _log.info("where the image of %s lies is not known: %s", instance.name, error)
        return ()


# --- as a stream ----------------------------------------------------------------------------------


@contextmanager
def _sources(rooms: Rooms, instance: Instance, disks: Sequence[Disk]) -> Iterator[Mapping[str, DiskSource]]:
    """Copies of what a running guest has on its disks; of a stopped one none is needed."""
    if not capture_live.runs(rooms, instance):
        yield {}
        return
    with capture_live.taken(rooms, instance, disks) as found:
        yield found


def _sent(rooms: Rooms, instance: Instance, disk: Disk, source: DiskSource | None, image: Image, tell: Tell) -> Image:
    """Raw for storage that clones images, else qcow2."""
    backend = rooms.backend(named.one(rooms, instance, disk.name).backend)
    wanted = DiskFormat.RAW if isinstance(backend, BaseKeeping) else DiskFormat.QCOW2
    image = replace(image, disk_format=wanted)
    with _content(rooms, instance, disk, source, wanted) as content:
        tell(task_state=UPLOADING, expected_state=PENDING)
        return rooms.images.upload(image, content, progress=rooms.progress)


@contextmanager
def _content(
    rooms: Rooms, instance: Instance, disk: Disk, source: DiskSource | None, format: DiskFormat
) -> Iterator[BinaryIO]:
    """The disk's content as a stream; through a file without a name to find where it cannot be read in place."""
    from cowshed.tools.transfer import streams
    from cowshed.tools.transfer.export import open_layer

    source = source or disk.source()
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
