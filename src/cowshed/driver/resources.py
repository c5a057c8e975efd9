"""Resources: what this host has and has left."""

from __future__ import annotations

from typing import Any

from cowshed import log
from cowshed.contract.resources import Resources as ResourcesContract
from cowshed.driver.rooms import Rooms
from cowshed.errors import CowshedError

_log = log.logger(__name__)


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
        """Of the disks that take room on this host; what cannot be told of one instance hides no other."""
        from cowshed.driver.steps import locate

        try:
            found = locate.disks(self.rooms, uuid)
            return [disk.info() for backend, disk in found if not self.rooms.backend(backend).traits.shared]
        except CowshedError as error:
            _log.warning("disks of instance %s are not counted: %s", uuid, error)
            return []

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        return [self.rooms.hypervisor.hostname()]
