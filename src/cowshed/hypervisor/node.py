"""Node: what the machine below the hypervisor is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cowshed.model.host import CpuStats


@dataclass(frozen=True, slots=True)
class NodeInfo:
    """``memory`` in bytes; ``cpus`` are the logical ones that are online; ``mhz`` 0 where unknown."""

    arch: str
    cpus: int
    memory: int
    mhz: int
    numa_nodes: int
    sockets: int
    cores: int
    threads: int


def info(connection: Any) -> NodeInfo:
    arch, megabytes, cpus, mhz, nodes, sockets, cores, threads = connection.getInfo()
    return NodeInfo(arch, cpus, megabytes << 20, mhz, nodes, sockets, cores, threads)


def cpu_stats(connection: Any) -> CpuStats:
    """Nanoseconds since boot over all CPUs."""
    stats = connection.getCPUStats(-1)  # VIR_NODE_CPU_STATS_ALL_CPUS
    return CpuStats(
        kernel=stats.get("kernel", 0),
        idle=stats.get("idle", 0),
        user=stats.get("user", 0),
        iowait=stats.get("iowait", 0),
        frequency=connection.getInfo()[3],
    )
