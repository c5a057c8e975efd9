"""What instances use."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.model.instance import Instance


class Statistics:
    """What instances use."""

    @unfulfilled
    def get_diagnostics(self, instance: Instance) -> dict[str, Any]:
        """Flat counters: cpuN_time (ns), memory (KiB), <disk>_read, <interface>_rx (bytes), ...

        :raises InstanceNotFound: :raises InvalidState: it is not running
        """
        refuse(self, "get_diagnostics")

    @unfulfilled
    def get_instance_diagnostics(self, instance: Instance) -> Any:
        """The same counters as a structured value: state, uptime (s), cpu, nic, disk and memory details.

        Errors are those of :meth:`get_diagnostics`.
        """
        refuse(self, "get_instance_diagnostics")

    @unfulfilled
    def block_stats(self, instance: Instance, disk_id: str) -> list[int] | None:
        """[rd_req, rd_bytes, wr_req, wr_bytes, errs] of one disk; None when device or instance is gone.

        :param disk_id: its name in the guest, such as ``vda``
        """
        refuse(self, "block_stats")

    @unfulfilled
    def get_all_bw_counters(self, instances: Sequence[Instance]) -> list[dict[str, Any]]:
        """uuid, mac_address, bw_in, bw_out (bytes, cumulative; in: received by the guest) of every interface."""
        refuse(self, "get_all_bw_counters")

    def get_per_instance_usage(self) -> dict[str, dict[str, Any]]:
        """UUID to {memory_mb, uuid} of active guests, to find those nobody knows."""
        return {}

    def estimate_instance_overhead(self, instance_info: Any) -> dict[str, int]:
        """{memory_mb, disk_gb} that an instance needs beside its flavor."""
        return {"memory_mb": 0, "disk_gb": 0}
