"""Before a guest is stopped or started: what its disks stand on is there, or is fetched again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.driver.steps import moving, replacing
from cowshed.errors import CowshedError, DigestMismatch, DiskNotFound, InvalidRequest, NotFound
from cowshed.model.disk import ManifestDisk
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)


def ready(rooms: Rooms, instance: Instance) -> None:
    """Every base in a file that a disk of the instance reads is there; one that was lost is made again from its image.

    :raises DiskNotFound: a base is gone for good
    :raises DigestMismatch: the one that is there, or that the image gives now, has other bytes than the disk stands on
    :raises DataCorrupt: it has lost or won bytes
    """
    from cowshed.disks import manifest

    for entry in manifest.load(rooms.directory(instance.uuid).path).disks.values():
        if entry.base_path and not (moving.is_left(entry) or replacing.is_second(entry.name)):
            _see_to(rooms, instance, entry, Path(entry.base_path))


def _see_to(rooms: Rooms, instance: Instance, entry: ManifestDisk, path: Path) -> None:
    if path.exists():
        if path.parent == rooms.cache.root.absolute():
            _compare(rooms, instance, entry, path)
        return
    if not (path.parent == rooms.cache.root.absolute() and entry.image_id and entry.base_digest):
        raise _gone(instance, entry, path, "no image is known that it could be made from again")
    _log.warning("the base %s under %s of %s is gone; fetching it again", path, entry.name, instance.name)
    _fetch(rooms, instance, entry, path)


def _compare(rooms: Rooms, instance: Instance, entry: ManifestDisk, path: Path) -> None:
    """By what is noted of both: somebody may have removed a base and fetched the image anew, with other bytes."""
    base, (algorithm, _, expected) = rooms.cache.lookup(path.name), (entry.base_digest or "").partition(":")
    if base and base.digest and expected and base.digest != entry.base_digest:
        raise DigestMismatch(
            subject=f"the base {path} under {entry.name} of {instance.name}",
            algorithm=algorithm,
            expected=expected,
            actual=base.digest.partition(":")[2],
            hint=_cure(instance),
        )


def _fetch(rooms: Rooms, instance: Instance, entry: ManifestDisk, path: Path) -> None:
    from cowshed.images.cache import name_of

    assert entry.base_format
    if path.name != name_of(entry.image_id, entry.base_format):
        raise _gone(instance, entry, path, f"it is not as image {entry.image_id} would be kept")
    try:
        image = rooms.images.show(entry.image_id)
        rooms.cache.get(
            image, rooms.images, format=entry.base_format, digest=entry.base_digest or "", progress=rooms.progress
        )
    except (NotFound, InvalidRequest) as error:
        raise _gone(instance, entry, path, str(error)) from error
    except DigestMismatch as error:  # of the image, or of what its base would be now
        error.hint = _cure(instance)
        raise


def _gone(instance: Instance, entry: ManifestDisk, path: Path, reason: str) -> CowshedError:
    return DiskNotFound(
        name=f"{path} (the base under {entry.name} of {instance.name})", hint=f"{reason}; {_cure(instance)}"
    )


def _cure(instance: Instance) -> str:
    return f"put the file back from a backup, or give up what is on the disks: cowshed rebuild {instance.name} IMAGE"
