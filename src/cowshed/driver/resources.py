"""Resources: what this host has and has left."""

from __future__ import annotations

from typing import Any

from cowshed.contract.resources import Resources as ResourcesContract
from cowshed.driver.rooms import Rooms


class Resources(ResourcesContract):
    rooms: Rooms

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        from cowshed.host import facts, resources

        hypervisor, capabilities = self.rooms.hypervisor, self.rooms.capabilities
        node, space, memory = hypervisor.node(), facts.disk(self.rooms.state), facts.memory()
        stats = hypervisor.stats()
        disks = [info for uuid in stats for info in self._disk_infos(uuid)]
        running = [one for one in stats.values() if one.get("state.state") == 1]
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
        )
        usage = resources.Usage(
            vcpus=sum(one.get("vcpu.current", 0) for one in running),
            memory=sum(one.get("balloon.maximum", 0) for one in running) * 1024,
            disk=sum(info.virtual_size for info in disks),
        )
        return resources.available(totals, usage)

    def _disk_infos(self, uuid: str) -> list[Any]:
        return [disk.info() for backend in self.rooms.backends.values() for disk in backend.disks(uuid)]

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        return [self.rooms.hypervisor.hostname()]
