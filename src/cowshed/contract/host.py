"""Facts of this machine and acts on it."""

from __future__ import annotations

from cowshed.contract.promise import refuse, unfulfilled


class Host:
    """Facts of this machine and acts on it."""

    @unfulfilled
    def get_host_ip_addr(self) -> str:
        """The management address."""
        refuse(self, "get_host_ip_addr")

    @unfulfilled
    def get_host_uptime(self) -> str:
        """Text as uptime(1) prints it."""
        refuse(self, "get_host_uptime")

    @unfulfilled
    def get_host_cpu_stats(self) -> dict[str, int]:
        """kernel, idle, user, iowait (ns since boot) and frequency (MHz)."""
        refuse(self, "get_host_cpu_stats")

    @unfulfilled
    def host_power_action(self, action: str) -> str:
        """``startup``, ``shutdown`` or ``reboot`` this host."""
        refuse(self, "host_power_action")

    @unfulfilled
    def host_maintenance_mode(self, host: str, mode: bool) -> str:
        """Move all guests off (``on_maintenance``) or end that (``off_maintenance``)."""
        refuse(self, "host_maintenance_mode")

    @unfulfilled
    def set_host_enabled(self, enabled: bool) -> str:
        """Accept new instances or not; ``enabled`` or ``disabled``."""
        refuse(self, "set_host_enabled")
