"""What this host has and has left."""

from __future__ import annotations

from typing import Any

from cowshed.contract.promise import refuse, unfulfilled


class Resources:
    """What this host has and has left."""

    @unfulfilled
    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        """vcpus, memory_mb, local_gb, their ..._used, hypervisor_type, hypervisor_version, hypervisor_hostname, cpu_info
        (JSON), disk_available_least, supported_instances, pci_passthrough_devices (JSON), numa_topology.
        """
        refuse(self, "get_available_resource")

    @unfulfilled
    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        """The names of the nodes this driver serves: one."""
        refuse(self, "get_available_nodes")

    def node_is_available(self, nodename: str) -> bool:
        """Is it one of them?"""
        return nodename in self.get_available_nodes() or nodename in self.get_available_nodes(refresh=True)
