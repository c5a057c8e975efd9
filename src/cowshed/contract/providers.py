"""What a host has, in the words of a resource provider (OpenStack's placement service)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from cowshed.contract.compute import ComputeDriver

RATIOS: Final = {"VCPU": 4.0, "MEMORY_MB": 1.0, "DISK_GB": 1.0}  # of promises to what there is, where nobody has said


def update_provider_tree(core: ComputeDriver, provider_tree: Any, nodename: str, traits: Mapping[str, bool]) -> None:
    """Write inventory and traits of ``nodename`` into ``provider_tree``.

    Ratios and reserves that are in the tree already stay: they are the operator's. So do traits that are not ours.
    """
    known = provider_tree.data(nodename)
    provider_tree.update_inventory(nodename, inventory(core.get_available_resource(nodename), known.inventory))
    ours = {name for name, holds in traits.items() if holds}
    provider_tree.update_traits(nodename, (set(known.traits) - traits.keys()) | ours)


def inventory(resources: Mapping[str, Any], known: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """:param resources: as of ``get_available_resource``; known: the inventory so far"""
    totals = {"VCPU": resources["vcpus"], "MEMORY_MB": resources["memory_mb"], "DISK_GB": resources["local_gb"]}
    return {
        name: {
            "total": total,
            "min_unit": 1,
            "max_unit": total,
            "step_size": 1,
            "allocation_ratio": known.get(name, {}).get("allocation_ratio", RATIOS[name]),
            "reserved": known.get(name, {}).get("reserved", 0),
        }
        for name, total in totals.items()
        if total > 0
    }
