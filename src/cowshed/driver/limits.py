"""Limits of disks: read and changed while the guest runs or not. cowshed's own; the contract has no call for it."""

from __future__ import annotations

from collections.abc import Mapping

from cowshed import log
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import limits as steps
from cowshed.driver.steps import named, placing, volumes
from cowshed.errors import DiskNotFound, UnsupportedOperation
from cowshed.model.disk import IoTune
from cowshed.model.instance import Instance


class Limits:
    rooms: Rooms

    def disk_limits(self, instance: Instance) -> dict[str, IoTune | None]:
        """Every disk of the instance that its guest sees, and its limits.

        :raises DataCorrupt: a record cannot be read
        """
        places = placing.remembered(self.rooms, instance)
        found = steps.of_disks(self.rooms, instance, places)
        return {name: found.get(name) for name in places}

    def limit_disk(
        self, instance: Instance, disk: str, changes: Mapping[str, int | str], *, clear: bool = False
    ) -> IoTune | None:
        """Change limits of ``disk`` for good; a running guest has them at once.

        Disks of the same group change with it: they share one limit.

        :param disk: its name, a word such as ``root`` or ``swap``, or its target (``vda``); empty: the root disk
        :param changes: libvirt's names to bytes, operations or seconds; 0 takes a limit away
        :param clear: forget all it had before
        :return: what holds now
        :raises DiskNotFound: the instance has no such disk
        :raises UnsupportedOperation: it is a volume
        :raises InvalidRequest: limits that contradict each other; nothing has changed
        """
        from cowshed.domain import qos

        with log.about(instance.name):
            self._refuse_volume(instance, disk)
            places = placing.remembered(self.rooms, instance)
            name = named.one(self.rooms, instance, disk).name
            if name not in places:
                raise DiskNotFound(name=f"{disk} of instance {instance.name}", hint=f"it has {', '.join(places)}")
            present = steps.of_disks(self.rooms, instance, places)
            tune = qos.changed(None if clear else present.get(name), changes)
            self._apply(instance, places, _with_group(present, name, tune))
            return tune

    def _refuse_volume(self, instance: Instance, disk: str) -> None:
        """:raises UnsupportedOperation: ``disk`` is the target or the id of one"""
        word = disk.removeprefix("/dev/")
        for one in volumes.recorded(self.rooms, instance):
            if word and word in (one.target, one.id):
                raise UnsupportedOperation(
                    subject=f"volume {one.id} ({one.target}) of {instance.name}",
                    operation="be limited while it is attached",
                    reason="its limits come with its connection",
                    hint=f"detach it and attach it again: cowshed volume attach {instance.name} SOURCE --limit NAME=NUMBER",
                )

    def _apply(
        self, instance: Instance, places: Mapping[str, placing.Place], changed: Mapping[str, IoTune | None]
    ) -> None:
        """Written down first; a guest that does not take them puts that back."""
        from cowshed.hypervisor import iotune

        before = steps.raw(self.rooms, instance.uuid)
        steps.remember(self.rooms, instance.uuid, changed)
        try:
            if guest := self.rooms.hypervisor.find(instance.uuid):
                for name, tune in changed.items():
                    iotune.limit(guest, places[name].target, tune)
        except BaseException:
            steps.restore(self.rooms, instance.uuid, before)
            raise


def _with_group(present: Mapping[str, IoTune], name: str, tune: IoTune | None) -> dict[str, IoTune | None]:
    """``name``, and every other disk that is in its new group already."""
    changed: dict[str, IoTune | None] = {name: tune}
    if tune and tune.group_name:
        changed |= {other: tune for other, had in present.items() if had.group_name == tune.group_name}
    return changed
