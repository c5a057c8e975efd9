"""Disk listing: which disks an instance has, and what each is (beside the contract)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from cowshed.contract.storage import Snapshotting
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import limits, named, placing
from cowshed.errors import DataCorrupt, InvalidRequest
from cowshed.model.disk import IoTune, LocalDisk, ManifestDisk
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.driver.steps.placing import Place


class DiskListing:
    rooms: Rooms

    def list_disks(self, instance: Instance) -> Sequence[LocalDisk]:
        """All, in the order in which they were made.

        :raises ConfigError: one is on a backend that is not configured any more :raises DataCorrupt:
        """
        places = self._places(instance)
        return [self._described(instance, entry, places) for entry in named.entries(self.rooms, instance).values()]

    def show_disk(self, instance: Instance, disk: str = "") -> LocalDisk:
        """:param disk: its name, a word such as ``root`` or ``swap``, or its target (``vda``); empty: the root disk

        :raises DiskNotFound:
        """
        return self._described(instance, named.one(self.rooms, instance, disk), self._places(instance))

    def _places(self, instance: Instance) -> Mapping[str, Place]:
        """Looking works also where a guest could not be started."""
        try:
            return placing.remembered(self.rooms, instance)
        except DataCorrupt:
            return {}

    def _limits(self, instance: Instance) -> Mapping[str, IoTune]:
        try:
            return limits.of_disks(self.rooms, instance, self._places(instance))
        except (DataCorrupt, InvalidRequest):  # the flavor of an instance of long ago
            return {}

    def _described(self, instance: Instance, entry: ManifestDisk, places: Mapping[str, Place]) -> LocalDisk:
        disk = self.rooms.backend(entry.backend).disk(instance.uuid, entry.name)
        info, place = disk.info(), places.get(entry.name)
        inside = self.rooms.directory(instance.uuid).path / entry.location
        return LocalDisk(
            name=entry.name,
            backend=entry.backend,
            format=info.format,
            location=str(inside) if inside.exists() else entry.location,
            virtual_size=info.virtual_size,
            allocated=info.allocated,
            target=place.target if place else "",
            bus=str(place.bus) if place else "",
            device=str(place.device) if place else "",
            readonly=place.readonly if place else True,
            base=info.backing_path or "",
            image_id=entry.image_id,
            encryption=str(entry.encryption.format) if entry.encryption else "",
            limits=self._limits(instance).get(entry.name),
            snapshots=tuple(disk.snapshots()) if isinstance(disk, Snapshotting) else (),
        )
