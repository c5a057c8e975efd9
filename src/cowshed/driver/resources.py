"""Resources: what this host has and has left."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cowshed import log
from cowshed.contract.resources import Resources as ResourcesContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import counters, host_state, locate
from cowshed.errors import CowshedError

if TYPE_CHECKING:
    from cowshed.contract.storage import Backend
    from cowshed.model.disk import DiskInfo

_log = log.logger(__name__)


class Resources(ResourcesContract):
    rooms: Rooms

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        from cowshed.host import facts, resources

        hypervisor, capabilities = self.rooms.hypervisor, self.rooms.capabilities
        node, space, memory = hypervisor.node(), facts.disk(self.rooms.state), facts.memory()
        stats = hypervisor.recent_stats()
        disks = self._disk_infos(stats)
        held = [one for one in stats.values() if counters.holds(one)]
        totals = resources.Totals(
            hostname=hypervisor.hostname(),
            vcpus=node.cpus,
            memory=node.memory,
            disk=space.total,
            disk_free=space.free,
            memory_used=memory.used,
            arch=capabilities.arch,
            virt_types=(capabilities.virt_type,),
            version=capabilities.qemu,
            disk_overcommit=sum(max(0, info.virtual_size - info.allocated) for info in disks),
            reserved_memory=self.rooms.config.host.reserved_memory,
            reserved_disk=self.rooms.config.host.reserved_disk,
            instances=len(stats),
            uuid=host_state.node_uuid(self.rooms),
            cpu=self._cpu,
        )
        usage = resources.Usage(
            vcpus=sum(one.get("vcpu.current", 0) for one in held),
            memory=sum(one.get("balloon.maximum", 0) for one in held) * 1024,
            disk=sum(info.virtual_size for info in disks),
        )
        return resources.available(totals, usage)

    @cached_property
    def _cpu(self) -> dict[str, Any]:
        from cowshed.hypervisor import capabilities

        return capabilities.host_cpu(self.rooms.hypervisor)

    def _disk_infos(self, uuids: Iterable[str]) -> list[DiskInfo]:
        """Of the disks that take room on this host; what cannot be told of one instance hides no other."""
        from cowshed.disks import manifest

        found: list[DiskInfo] = []
        local: dict[str, Backend | None] = {}
        for uuid in uuids:
            try:
                for entry in manifest.load(self.rooms.directory(uuid).path).disks.values():
                    if entry.backend not in local:
                        local[entry.backend] = self._local(entry.backend)
                    if (backend := local[entry.backend]) and (info := backend.measure(uuid, entry)):
                        found.append(info)
            except CowshedError as error:
                _log.warning("disks of instance %s are not counted: %s", locate.name(self.rooms, uuid), error)
        return found

    def _local(self, name: str) -> Backend | None:
        """The backend, if its disks are on this host."""
        backend = self.rooms.backend(name)
        return None if backend.traits.shared else backend

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        return [self.rooms.hypervisor.hostname()]
