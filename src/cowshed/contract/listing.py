"""Which instances there are and what state they are in."""

from __future__ import annotations

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.model.instance import Instance, InstanceInfo


class Listing:
    """Which instances there are and what state they are in."""

    @unfulfilled
    def get_info(self, instance: Instance) -> InstanceInfo:
        """State, memory (KiB), vCPUs and CPU time (ns) of an instance, as the hypervisor sees it now.

        A suspended instance is SHUTDOWN here: that it can be resumed is the caller's knowledge.

        :raises InstanceNotFound:
        """
        refuse(self, "get_info")

    def get_num_instances(self) -> int:
        """How many instances the hypervisor knows."""
        return len(self.list_instances())

    @unfulfilled
    def instance_exists(self, instance: Instance) -> bool:
        """Does the hypervisor know the instance? By UUID."""
        refuse(self, "instance_exists")

    @unfulfilled
    def list_instances(self) -> list[str]:
        """Names of all instances, running or not."""
        refuse(self, "list_instances")

    @unfulfilled
    def list_instance_uuids(self) -> list[str]:
        """UUIDs of all instances, running or not."""
        refuse(self, "list_instance_uuids")
