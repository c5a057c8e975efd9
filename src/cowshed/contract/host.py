"""Facts of this machine and acts on it."""

from __future__ import annotations

from cowshed.contract.promise import refuse, unfulfilled


class Host:
    """Facts of this machine and acts on it."""

    @unfulfilled
    def get_host_ip_addr(self) -> str:
        """The management address of this host, as text; other hosts reach it there."""
        refuse(self, "get_host_ip_addr")

    @unfulfilled
    def get_host_uptime(self) -> str:
        """How long the host has been up, as one line of uptime(1)."""
        refuse(self, "get_host_uptime")

    @unfulfilled
    def get_host_cpu_stats(self) -> dict[str, int]:
        """kernel, idle, user, iowait (ns since boot, all CPUs together) and frequency (MHz) of the host."""
        refuse(self, "get_host_cpu_stats")

    @unfulfilled
    def host_power_action(self, action: str) -> str:
        """``startup``, ``shutdown`` or ``reboot`` this host; text that says what was done.

        :raises UnsupportedOperation: such acts are not allowed here, or impossible: a host that is down runs no driver
        """
        refuse(self, "host_power_action")

    @unfulfilled
    def host_maintenance_mode(self, host: str, mode: bool) -> str:
        """Move all guests off (``on_maintenance``) or end that (``off_maintenance``).

        :param host: the name of this host
        :param mode: True begins, False ends
        :raises HostUnsuitable: not all guests could be moved
        """
        refuse(self, "host_maintenance_mode")

    @unfulfilled
    def set_host_enabled(self, enabled: bool) -> str:
        """Accept new instances or not; returns ``enabled`` or ``disabled``. Running ones go on."""
        refuse(self, "set_host_enabled")
