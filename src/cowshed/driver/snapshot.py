"""Images made of instances."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from cowshed import log
from cowshed.contract.snapshot import Snapshot as SnapshotContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import capture, locate
from cowshed.errors import CowshedError
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.undo import Undo

_log = log.logger(__name__)

_NOT_INHERITED = "img_signature"  # of other bytes


class Snapshot(SnapshotContract):
    rooms: Rooms

    def snapshot(self, context: Any, instance: Instance, image_id: str, update_task_state: Callable[..., None]) -> None:
        """A running guest's disk only where its storage takes the snapshot by itself (rbd), as after a power cut."""
        with log.about(instance.name):
            disk = capture.check(self.rooms, instance)
            image = self.rooms.images.reserved(image_id)
            capture.store(self.rooms, instance, disk, image, update_task_state)

    def create_image(self, instance: Instance, name: str, *, properties: Mapping[str, str] | None = None) -> Image:
        """The same with a record of our own (beside the contract): it is there whole, or not at all.

        Properties are those of the image the instance came from, and ``properties``.
        """
        from cowshed.images.record import check_name

        rooms = self.rooms
        with log.about(instance.name), Undo() as undo:
            check_name(name)
            self.post_interrupted_snapshot_cleanup(None, instance)
            disk = capture.check(rooms, instance)
            origin = locate.remembered_image(rooms, instance)
            inherited = {key: value for key, value in origin.properties.items() if not key.startswith(_NOT_INHERITED)}
            facts = {"image_type": "snapshot", "instance_uuid": instance.uuid, "base_image_ref": origin.id}
            image = rooms.images.reserve(
                Image(
                    id="",
                    name=name,
                    properties={**inherited, **facts, **(properties or {})},
                    min_disk=disk.info().virtual_size,
                    min_ram=origin.min_ram,
                )
            )
            undo.push("forget the record of the image", rooms.images.release, image.id)
            return capture.store(rooms, instance, disk, image, _nobody)

    def post_interrupted_snapshot_cleanup(self, context: Any, instance: Instance) -> None:
        with log.about(instance.name):
            try:
                capture.clean(self.rooms, instance)
            except CowshedError as error:  # a start does not fail for it; the next one tries again
                _log.warning("an interrupted snapshot is not cleaned up yet: %s", error)


def _nobody(**_: Any) -> None:
    """Nobody follows the task states."""
