"""Statistics: what instances use, from libvirt's bulk statistics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cowshed.contract.statistics import Statistics as StatisticsContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import counters
from cowshed.errors import InstanceNotFound, InvalidState
from cowshed.model.instance import Instance, PowerState


class Statistics(StatisticsContract):
    rooms: Rooms

    def get_diagnostics(self, instance: Instance) -> dict[str, Any]:
        return counters.flat(self._stats(instance))

    def get_instance_diagnostics(self, instance: Instance) -> dict[str, Any]:
        return counters.structured(self._stats(instance), launched_at=instance.launched_at)

    def _stats(self, instance: Instance) -> dict[str, Any]:
        guest = self.rooms.hypervisor.guest(instance.uuid)
        if guest.state() != PowerState.RUNNING:
            raise InvalidState(name=instance.name, state=guest.state().name.lower(), action="diagnosed")
        return self.rooms.hypervisor.stats([instance.uuid])[instance.uuid]

    def block_stats(self, instance: Instance, disk_id: str) -> list[int] | None:
        try:
            guest = self.rooms.hypervisor.guest(instance.uuid)
        except InstanceNotFound:
            return None
        stats = self.rooms.hypervisor.stats([guest.uuid]).get(guest.uuid, {})
        disk = next((disk for disk in counters.disks(stats) if disk.get("name") == disk_id), None)
        if disk is None or "rd.reqs" not in disk:
            return None
        return [disk["rd.reqs"], disk["rd.bytes"], disk["wr.reqs"], disk["wr.bytes"], max(0, disk.get("errors", 0))]

    def get_all_bw_counters(self, instances: Sequence[Instance]) -> list[dict[str, Any]]:
        from cowshed.domain.domain import Domain

        wanted = {instance.uuid for instance in instances}
        stats = self.rooms.hypervisor.stats()
        found = []
        for guest in self.rooms.hypervisor.guests():
            if guest.uuid not in wanted or guest.uuid not in stats:
                continue
            macs = {one.target: one.mac for one in Domain.parse(guest.xml()).interfaces}
            found += [
                {
                    "uuid": guest.uuid,
                    "mac_address": macs[card["name"]],
                    "bw_in": card.get("rx.bytes", 0),
                    "bw_out": card.get("tx.bytes", 0),
                }
                for card in counters.interfaces(stats[guest.uuid])
                if macs.get(card.get("name"))
            ]
        return found

    def usage(self) -> dict[str, dict[str, int]]:
        """Of every running guest: ``cpu_time`` (ns), ``memory`` (bytes QEMU holds), disk and network bytes."""
        return {uuid: counters.summed(stats) for uuid, stats in self.rooms.hypervisor.stats().items() if _runs(stats)}

    def get_per_instance_usage(self) -> dict[str, dict[str, Any]]:
        return {
            uuid: {"memory_mb": stats["balloon.maximum"] // 1024, "uuid": uuid}
            for uuid, stats in self.rooms.hypervisor.stats().items()
            if _runs(stats) and "balloon.maximum" in stats
        }


def _runs(stats: dict[str, Any]) -> bool:
    return bool(stats.get("state.state") == 1)
