"""Statistics: what instances use, from libvirt's bulk statistics."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cowshed.contract.statistics import Statistics as StatisticsContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import counters
from cowshed.driver.steps.disk_names import CONFIG_DRIVE
from cowshed.errors import InstanceNotFound, InvalidState
from cowshed.model.instance import Instance, PowerState

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest


class Statistics(StatisticsContract):
    rooms: Rooms

    def get_diagnostics(self, instance: Instance) -> dict[str, Any]:
        return counters.flat(self._counted(instance)[1])

    def get_instance_diagnostics(self, instance: Instance) -> dict[str, Any]:
        from cowshed.disks import manifest
        from cowshed.domain.domain import Domain

        guest, stats = self._counted(instance)
        return counters.structured(
            stats,
            launched_at=instance.launched_at,
            config_drive=CONFIG_DRIVE in manifest.load(self.rooms.directory(instance.uuid).path).disks,
            addresses=[one.mac for one in Domain.parse(guest.xml()).interfaces],
        )

    def _counted(self, instance: Instance) -> tuple[Guest, dict[str, Any]]:
        guest = self.rooms.hypervisor.guest(instance.uuid)
        if (state := guest.state()) != PowerState.RUNNING:
            raise InvalidState(name=instance.name, state=state.word, action="diagnosed")
        stats = self.rooms.hypervisor.stats([instance.uuid]).get(instance.uuid)
        if stats is None:
            raise InstanceNotFound(name=instance.name)  # it has gone meanwhile
        return guest, stats

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
        wanted = {instance.uuid for instance in instances}
        found = []
        for uuid, stats in self.rooms.hypervisor.recent_stats().items():
            if uuid not in wanted or not (cards := counters.interfaces(stats)):
                continue
            macs = self._macs(uuid, stats, tuple(card.get("name", "") for card in cards))
            found += [
                {
                    "uuid": uuid,
                    "mac_address": macs[name],
                    "bw_in": card.get("rx.bytes", 0),
                    "bw_out": card.get("tx.bytes", 0),
                }
                for card in cards
                if (name := card.get("name")) and macs.get(name)
            ]
        return found

    def _macs(self, uuid: str, stats: dict[str, Any], cards: tuple[str, ...]) -> dict[str | None, str | None]:
        """The address of each card's host side. Read once for each start and each set of cards."""
        from cowshed.domain.domain import Domain

        key = (stats.get("domain.id"), self.rooms.hypervisor.generation, cards)
        known = self._cards.get(uuid)
        if known is None or known[0] != key:
            guest = self.rooms.hypervisor.find(uuid)
            interfaces = Domain.parse(guest.xml()).interfaces if guest else ()
            known = self._cards[uuid] = (key, {one.target: one.mac for one in interfaces})
        return known[1]

    @cached_property
    def _cards(self) -> dict[str, tuple[Any, dict[str | None, str | None]]]:
        return {}

    def usage(self) -> dict[str, dict[str, int]]:
        """Of every running guest: ``cpu_time`` (ns), ``memory`` (bytes QEMU holds), disk and network bytes."""
        return {
            uuid: counters.summed(stats) for uuid, stats in self.rooms.hypervisor.recent_stats().items() if _runs(stats)
        }

    def get_per_instance_usage(self) -> dict[str, dict[str, Any]]:
        return {
            uuid: {"memory_mb": stats["balloon.maximum"] // 1024, "uuid": uuid}
            for uuid, stats in self.rooms.hypervisor.recent_stats().items()
            if counters.holds(stats) and "balloon.maximum" in stats
        }


def _runs(stats: dict[str, Any]) -> bool:
    return bool(stats.get("state.state") == 1)
