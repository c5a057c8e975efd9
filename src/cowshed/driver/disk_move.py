"""Disk move: from one backend to another (beside the contract)."""

from __future__ import annotations

from cowshed import log
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import moving, named, transit
from cowshed.model.instance import Instance


class DiskMove:
    rooms: Rooms

    def move_disk(self, instance: Instance, backend: str, disk: str = "") -> bool:
        """Let ``disk`` (default: root) live on ``backend``; False: it does already.

        The copy is compared before the old disk goes; interrupted anywhere, the instance has one of
        them whole. It is a full copy that stands on no base.

        :raises InvalidState: a guest uses the disk, or a resize waits for its end
        :raises Conflict: it has snapshots :raises UnsupportedOperation: it is encrypted
        :raises ConfigError: :raises NoSpace: :raises DataCorrupt: the old disk stays
        """
        rooms = self.rooms
        entry = named.changeable(rooms, instance, disk)
        rooms.backend(backend)
        named.check_off(rooms, instance, "moved to another backend")
        transit.refuse_kept(rooms, instance, "moved to another backend")
        with log.about(instance.name):
            moving.settle(rooms, instance)
            if entry.backend == backend:
                return False
            moving.check(rooms, instance, entry, backend)
            moving.move(rooms, instance, entry, backend)
        return True
