"""The fake's snapshots: a disk's bytes become an image."""

from __future__ import annotations

import tempfile
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.testing.driver.guest import FakeGuest
from cowshed.testing.driver.lifecycle import FakeLifecycle


class FakeSnapshot(FakeLifecycle):
    def snapshot(self, context: Any, instance: Instance, image_id: str, update_task_state: Callable[..., None]) -> None:
        guest = self._find(instance)
        update_task_state(task_state="image_pending_upload")
        disk = self._disk(guest.instance, "disk")
        with tempfile.TemporaryDirectory(prefix="cowshed-") as folder:
            path = Path(folder) / "snapshot"
            disk.extract(path, DiskFormat.RAW)
            update_task_state(task_state="image_uploading", expected_state="image_pending_upload")
            with path.open("rb") as file:
                self.images.upload(Image(id=image_id, name=f"snapshot-{image_id}"), file)

    def create_image(self, instance: Instance, name: str, *, properties: Mapping[str, str] | None = None) -> Image:
        return self._image(self._find(instance), "disk", name, properties or {})

    def create_images(
        self, instance: Instance, name: str, *, properties: Mapping[str, str] | None = None
    ) -> list[Image]:
        guest = self._find(instance)
        common = {**(properties or {}), "snapshot_set": str(uuid.uuid4())}
        disks = sorted(self._disks(guest.instance), key=lambda disk: disk.name)
        return [
            self._image(guest, disk.name, name + disk.name.removeprefix("disk").replace(".", "-"), common)
            for disk in disks
            if disk.name != "disk.swap"
        ]

    def _image(self, guest: FakeGuest, disk: str, name: str, properties: Mapping[str, str]) -> Image:
        with tempfile.TemporaryDirectory(prefix="cowshed-") as folder:
            path = Path(folder) / "snapshot"
            self._disk(guest.instance, disk).extract(path, DiskFormat.RAW)
            with path.open("rb") as file:
                return self.images.upload(Image(id="", name=name, properties=properties), file)
