"""What a scheduler is told about this host: the contract's dict, from numbers that are handed in."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from cowshed.units import GiB, MiB

# Ironic names, kept because schedulers compare them: architecture, hypervisor, VM mode.
HVM: Final = "hvm"


@dataclass(frozen=True, slots=True)
class Usage:
    """What the instances of this host hold: vCPUs, and bytes of memory and of promised disk."""

    vcpus: int = 0
    memory: int = 0
    disk: int = 0


@dataclass(frozen=True, slots=True)
class Totals:
    """What the host has. Bytes; ``disk_overcommit`` are bytes promised to disks that are not written yet.

    ``virt_types`` are libvirt's names (``kvm``, ``qemu``), the preferred one first. ``version`` is the
    hypervisor's, as (major, minor, micro).
    """

    hostname: str
    vcpus: int
    memory: int
    disk: int
    disk_free: int
    memory_used: int
    arch: str = "x86_64"
    virt_types: Sequence[str] = ("qemu",)
    version: tuple[int, int, int] = (0, 0, 0)
    disk_overcommit: int = 0
    reserved_memory: int = 0
    reserved_disk: int = 0
    uuid: str = ""
    cpu: Mapping[str, Any] = field(default_factory=dict)
    instances: int = 0


def available(totals: Totals, usage: Usage) -> dict[str, Any]:
    """The dict of ``get_available_resource`` (MiB and GiB, as the contract wants them)."""
    left = totals.disk_free - totals.disk_overcommit - totals.reserved_disk
    return {
        "uuid": totals.uuid,
        "vcpus": totals.vcpus,
        "vcpus_used": usage.vcpus,
        "memory_mb": totals.memory // MiB,
        "memory_mb_used": max(usage.memory + totals.reserved_memory, totals.memory_used) // MiB,
        "local_gb": totals.disk // GiB,
        "local_gb_used": max(totals.disk - totals.disk_free, usage.disk) // GiB,
        "disk_available_least": left // GiB,  # negative: more was promised than there is
        "hypervisor_type": "QEMU",
        "hypervisor_version": version_number(totals.version),
        "hypervisor_hostname": totals.hostname,
        "cpu_info": json.dumps(dict(totals.cpu), sort_keys=True),
        "supported_instances": [(totals.arch, virt_type, HVM) for virt_type in totals.virt_types],
        "pci_passthrough_devices": "[]",
        "numa_topology": None,
        "stats": {"num_instances": totals.instances},
    }


def version_number(version: tuple[int, int, int]) -> int:
    """libvirt's form: 7.2.3 is 7002003."""
    major, minor, micro = version
    return major * 1_000_000 + minor * 1_000 + micro
