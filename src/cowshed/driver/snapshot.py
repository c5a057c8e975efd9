"""Images made of instances, running or not, and quiet file systems in them."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from cowshed import log
from cowshed.contract.snapshot import Snapshot as SnapshotContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import capture, capture_clean, locate, quiet
from cowshed.errors import CowshedError, ImageNotFound
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.contract.storage import Disk

_log = log.logger(__name__)

SET: Final = "snapshot_set"  # property of images that were made at one point in time: one UUID
DISK: Final = "snapshot_disk"  # property beside it: which disk it was
_NOT_INHERITED = "img_signature"  # of other bytes


class Snapshot(SnapshotContract):
    rooms: Rooms

    def snapshot(self, context: Any, instance: Instance, image_id: str, update_task_state: Callable[..., None]) -> None:
        """A running guest goes on, quiesced for a moment where its agent can (``os_require_quiesce``: or not at all).

        :raises UnsupportedOperation: the disk is encrypted, or the guest must be quiesced and has no agent
        :raises InvalidState: it is suspended; or must be quiesced, and is paused :raises NoSpace: for the copy
        """
        with log.about(instance.name):
            self._clean(instance, keep=image_id)
            (disk,) = capture.check(self.rooms, instance)
            image = self.rooms.images.reserved(image_id)
            capture.store(self.rooms, instance, disk, image, update_task_state)

    def create_image(self, instance: Instance, name: str, *, properties: Mapping[str, str] | None = None) -> Image:
        """The same with a record of our own (beside the contract): it is there whole, or not at all.

        Properties are those of the image the instance came from, and ``properties``.
        """
        rooms = self.rooms
        with log.about(instance.name), Undo() as undo:
            self._prepare(instance, name)
            (disk,) = capture.check(rooms, instance)
            image = rooms.images.reserve(self._record(instance, disk, name, properties or {}))
            undo.push("forget the record of the image", rooms.images.release, image.id)
            return capture.store(rooms, instance, disk, image, _nobody)

    def create_images(
        self, instance: Instance, name: str, *, properties: Mapping[str, str] | None = None
    ) -> list[Image]:
        """One image of every local disk that the guest writes to (no swap), all at one point in time, root first.

        They are called ``name`` and ``name-eph0``, ... and share the property ``snapshot_set``; ``snapshot_disk``
        says which disk each was. All are there, or none. Volumes are the volume service's.
        """
        rooms = self.rooms
        with log.about(instance.name), Undo() as undo:
            self._prepare(instance, name)
            common = {**(properties or {}), SET: str(uuid.uuid4())}
            wanted: list[tuple[Disk, Image]] = []
            for disk in capture.check(rooms, instance, all_disks=True):
                called = name if not wanted else f"{name}-{disk.name.removeprefix('disk.')}"
                image = rooms.images.reserve(self._record(instance, disk, called, {**common, DISK: disk.name}))
                undo.push(f"forget image {called}", _withdraw, rooms, image.id)
                wanted.append((disk, image))
            return capture.store_set(rooms, instance, wanted)

    def _prepare(self, instance: Instance, name: str) -> None:
        from cowshed.images.record import check_name

        check_name(name)
        self._clean(instance)

    def _record(self, instance: Instance, disk: Disk, name: str, properties: Mapping[str, str]) -> Image:
        origin = locate.remembered_image(self.rooms, instance)
        inherited = {key: value for key, value in origin.properties.items() if not key.startswith(_NOT_INHERITED)}
        facts = {"image_type": "snapshot", "instance_uuid": instance.uuid, "base_image_ref": origin.id}
        return Image(
            id="",
            name=name,
            properties={**inherited, **facts, **properties},
            min_disk=disk.info().virtual_size,
            min_ram=origin.min_ram,
        )

    def post_interrupted_snapshot_cleanup(self, context: Any, instance: Instance) -> None:
        """Jobs in QEMU end, the guest is thawed, temporary files and records go. Not while the snapshot still goes on."""
        with log.about(instance.name):
            self._clean(instance)

    def _clean(self, instance: Instance, *, keep: str = "") -> None:
        try:
            capture_clean.clean(self.rooms, instance, keep=keep)
        except CowshedError as error:  # a start does not fail for it; the next one tries again
            _log.warning("an interrupted snapshot is not cleaned up yet: %s", error)

    # --- quiet file systems -------------------------------------------------------------------

    def quiesce(self, context: Any, instance: Instance, image_meta: Image) -> None:
        with log.about(instance.name):
            quiet.freeze(self.rooms.hypervisor.guest(instance.uuid))

    def unquiesce(self, context: Any, instance: Instance, image_meta: Image) -> None:
        with log.about(instance.name):
            quiet.thaw(self.rooms.hypervisor.guest(instance.uuid))


def _withdraw(rooms: Rooms, image_id: str) -> None:
    with suppress(ImageNotFound):
        rooms.images.delete(image_id)
    rooms.images.release(image_id)


def _nobody(**_: Any) -> None:
    """Nobody follows the task states."""
