"""What this host has and has left."""

from __future__ import annotations

from typing import Any

from cowshed.contract.promise import refuse, unfulfilled


class Resources:
    """What this host has and has left."""

    @unfulfilled
    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        """What this host has and what is used, for a scheduler.

        vcpus, memory_mb, local_gb and their ..._used (MiB, GiB), disk_available_least (GiB; negative: more was promised than
        there is), hypervisor_type, hypervisor_version (7.2.3 is 7002003), hypervisor_hostname, cpu_info (JSON: arch, model,
        vendor, topology, features), uuid (the node's, the same for good), supported_instances (tuples of architecture, hypervisor,
        mode), pci_passthrough_devices (JSON), numa_topology.
        """
        refuse(self, "get_available_resource")

    @unfulfilled
    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        """The names of the nodes this driver serves: one, which does not change while it runs.

        :param refresh: ask the hypervisor anew
        """
        refuse(self, "get_available_nodes")

    def node_is_available(self, nodename: str) -> bool:
        """Is ``nodename`` one of them? Asked anew before the answer is no."""
        return nodename in self.get_available_nodes() or nodename in self.get_available_nodes(refresh=True)
