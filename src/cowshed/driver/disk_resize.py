"""Disk resize: grow one disk of an instance, running or not (beside the contract)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cowshed import log
from cowshed.contract.storage import Disk, Traits
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import named, placing
from cowshed.errors import DiskTooSmall, InvalidRequest, UnsupportedOperation
from cowshed.model.disk import DiskFormat, ManifestDisk
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)
_SECTOR = 512


class DiskResize:
    rooms: Rooms

    def resize_disk(self, instance: Instance, size: int, disk: str = "") -> int:
        """Grow ``disk`` (default: root) to ``size`` bytes; returns what it has now, a whole number of sectors.

        What is on it (partitions, file systems) is the guest's to grow.

        :raises DiskTooSmall: it is larger; a disk is never cut
        :raises UnsupportedOperation: the guest runs, and this kind of disk does not grow under it
        :raises InvalidState: the guest's memory is saved, and knows the disk as it is
        """
        rooms = self.rooms
        entry = named.changeable(rooms, instance, disk)
        size = -(-size // _SECTOR) * _SECTOR
        if size < entry.virtual_size:
            hint = "a disk can grow, but is never cut"
            raise DiskTooSmall(disk=entry.name, size=size, needed=entry.virtual_size, hint=hint)
        handle = rooms.backend(entry.backend).disk(instance.uuid, entry.name)
        with log.about(instance.name):
            if guest := self._user(instance):
                self._resize_online(instance, entry, handle, guest, size)
            else:
                named.check_off(rooms, instance, "given a larger disk")
                handle.resize(size)
        return size

    def _user(self, instance: Instance) -> Guest | None:
        """The guest that has the disk open."""
        guest = self.rooms.hypervisor.find(instance.uuid)
        return guest if guest and guest.state() not in named.OFF else None

    def _resize_online(self, instance: Instance, entry: ManifestDisk, disk: Disk, guest: Guest, size: int) -> None:
        from cowshed.hypervisor import blocks

        place = placing.remembered(self.rooms, instance)[entry.name]
        if place.readonly:
            raise InvalidRequest(reason=f"the guest only reads {entry.name}", hint="stop the instance first")
        traits = self.rooms.backend(entry.backend).traits
        if traits.grows_online:
            disk.resize(size)
            blocks.resize(guest, place.target, size)
            return
        _check_qemu_can(instance, entry, traits)
        blocks.resize(guest, place.target, size)
        disk.resize(size)  # which only writes it down


def _check_qemu_can(instance: Instance, entry: ManifestDisk, traits: Traits) -> None:
    """A qcow2 file is grown by the QEMU that has it open."""
    if entry.format != DiskFormat.QCOW2:
        raise UnsupportedOperation(
            subject=f"backend {traits.name}",
            operation=f"grow {entry.name} while a guest uses it",
            reason="only whoever has it open could",
            hint=f"stop it first: cowshed stop {instance.name}",
        )
