"""Disk snapshots: points in time of one disk, or of all disks of an instance together (beside the contract)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from cowshed import log
from cowshed.contract.storage import Disk, Snapshotting
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import keeping, named, transit
from cowshed.errors import CowshedError, InvalidRequest, SnapshotNotFound, UnsupportedOperation
from cowshed.model.disk import DiskSnapshot, ManifestDisk
from cowshed.model.instance import Instance
from cowshed.undo import Undo

_log = log.logger(__name__)


class DiskSnapshots:
    rooms: Rooms

    def take_disk_snapshot(self, instance: Instance, name: str, disk: str = "") -> Sequence[str]:
        """Of ``disk``, or of every disk that the guest can write to: all of them, or none.

        :return: names of the disks that have it now
        :raises InvalidState: a guest uses the disks
        :raises UnsupportedOperation: a backend takes no snapshots
        :raises NameTaken: a disk has a snapshot of this name :raises InvalidRequest: nothing can have this name
        """
        if name == keeping.SNAPSHOT:
            raise InvalidRequest(
                reason=f"{name} is what a resize calls the snapshots it keeps", hint="choose another name"
            )
        with self._offline(instance, "given a snapshot"), Undo() as undo:
            disks = self._chosen(instance, disk)
            for one, handle in disks:
                self.rooms.progress.check()
                handle.take(name, progress=self.rooms.progress)
                undo.push(f"remove the snapshot {name} of {one}", handle.remove, name)
        return [one for one, _ in disks]

    def list_disk_snapshots(self, instance: Instance, disk: str = "") -> Sequence[tuple[str, DiskSnapshot]]:
        """(disk, snapshot), each disk's oldest first. :raises UnsupportedOperation: ``disk`` can have none"""
        if disk:
            return [(one, point) for one, handle in self._chosen(instance, disk) for point in handle.snapshots()]
        handles = [(entry.name, self._handle(instance, entry)) for entry in self._entries(instance, "")]
        able = [(one, handle) for one, handle in handles if isinstance(handle, Snapshotting)]
        return [(one, point) for one, handle in able for point in handle.snapshots()]

    def roll_back_disks(self, instance: Instance, name: str, disk: str = "") -> Sequence[str]:
        """``disk``, or every disk that the guest can write to, as it was; the snapshot stays.

        :return: names of the disks that were rolled back
        :raises SnapshotNotFound: one of them has no such snapshot; nothing was done
        :raises InvalidState: a guest uses the disks
        """
        with self._offline(instance, "rolled back"):
            disks = self._chosen(instance, disk)
            for one, handle in disks:
                if name not in [point.name for point in handle.snapshots()]:
                    raise SnapshotNotFound(name=f"{name} of {one} of instance {instance.name}")
            for one, handle in disks:
                _log.info("rolling %s back to %s", one, name)
                handle.roll_back(name, progress=self.rooms.progress)
        return [one for one, _ in disks]

    def remove_disk_snapshot(self, instance: Instance, name: str, disk: str = "") -> Sequence[str]:
        """Of ``disk``, or of every disk that has it.

        :return: names of the disks that had it
        :raises SnapshotNotFound: none has :raises Busy: something stands on it; the others are gone
        :raises InvalidState: a resize that waits for its end keeps it for a revert
        """
        if name == keeping.SNAPSHOT:
            transit.refuse_kept(self.rooms, instance, "rid of what it would go back to")
        removed, first = [], None
        with self._offline(instance, "rid of a snapshot"):
            for one, handle in self._chosen(instance, disk):
                try:
                    handle.remove(name)
                    removed.append(one)
                except SnapshotNotFound:
                    continue
                except CowshedError as error:
                    first = first or error
        if first:
            raise first
        if not removed:
            raise SnapshotNotFound(name=f"{name} of {disk or 'any disk'} of instance {instance.name}")
        return removed

    @contextmanager
    def _offline(self, instance: Instance, action: str) -> Iterator[None]:
        named.check_off(self.rooms, instance, action)
        with log.about(instance.name):
            yield

    def _entries(self, instance: Instance, disk: str) -> Sequence[ManifestDisk]:
        if disk:
            return [named.changeable(self.rooms, instance, disk)]
        return named.all_changeable(self.rooms, instance)

    def _handle(self, instance: Instance, entry: ManifestDisk) -> Disk:
        return self.rooms.backend(entry.backend).disk(instance.uuid, entry.name)

    def _chosen(self, instance: Instance, disk: str) -> list[tuple[str, Snapshotting]]:
        """:raises UnsupportedOperation: one of them cannot; nothing was done to any"""
        found: list[tuple[str, Snapshotting]] = []
        for entry in self._entries(instance, disk):
            handle = self._handle(instance, entry)
            if not isinstance(handle, Snapshotting):
                raise UnsupportedOperation(
                    subject=f"backend {entry.backend}",
                    operation=f"take snapshots of {entry.name}",
                    reason="it has no way to",
                    hint="cowshed backends says which can; cowshed disk move changes the backend",
                )
            found.append((entry.name, handle))
        return found
