"""After a process that died while it made images of an instance."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.contract.storage import DirectUpload
from cowshed.driver.steps import capture, capture_live, capture_note, named
from cowshed.errors import Busy, CowshedError, ImageNotFound
from cowshed.model.flavor import Flavor
from cowshed.model.image import ImageStatus
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)


def recover(rooms: Rooms) -> None:
    """Of every instance of this host. What somebody still works at is left alone; what fails is tried again."""
    for path in sorted(rooms.instances.glob(f"*/{capture_note.NOTE}")):
        instance = Instance(uuid=path.parent.name, name=path.parent.name, flavor=Flavor())
        try:
            clean(rooms, instance)
        except Busy:
            continue
        except CowshedError as error:
            _log.warning("an interrupted snapshot of %s is not cleaned up yet: %s", instance.name, error)


def clean(rooms: Rooms, instance: Instance, *, keep: str = "") -> None:
    """Remove what an interrupted snapshot has left, and let its guest go on. What fails is tried again the next time.

    :param keep: a record that stays, because it is wanted now
    :raises Busy: it is not interrupted
    """
    if not rooms.directory(instance.uuid).path.is_dir():
        return
    with capture_note.alone(rooms, instance):
        _clean(rooms, instance, keep)


def _clean(rooms: Rooms, instance: Instance, keep: str) -> None:
    from cowshed.tools import filesystem

    path = capture_note.where(rooms, instance)
    note = capture_note.read(path)
    capture_live.clean(rooms, instance, frozen=note is not None and note.live)
    filesystem.remove_file(path.parent / capture.COPY)
    if note is None:
        return
    for image_id in note.images:
        if image_id != keep:
            _forget(rooms, instance, image_id, whole=note.set)
    filesystem.remove_file(path)


def _forget(rooms: Rooms, instance: Instance, image_id: str, *, whole: bool) -> None:
    """:param whole: it is one of a set that is not: it goes although it has its bytes"""
    entry = named.one(rooms, instance)
    disk = rooms.backend(entry.backend).disk(instance.uuid, entry.name)
    if isinstance(disk, DirectUpload) and not whole and not _is_complete(rooms, image_id):
        disk.clean_upload(image_id, near=capture.near(rooms, instance))
    if whole:
        with suppress(ImageNotFound):
            rooms.images.delete(image_id)
    rooms.images.release(image_id)


def _is_complete(rooms: Rooms, image_id: str) -> bool:
    """:raises CowshedError: the service cannot be asked; then nothing is removed"""
    try:
        image = rooms.images.show(image_id)
    except ImageNotFound:
        return False
    return image.status == ImageStatus.ACTIVE or bool(rooms.images.locations(image))
