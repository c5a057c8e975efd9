"""Host: facts of this machine, and the doctor."""

from __future__ import annotations

from cowshed.contract.host import Host as HostContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import host_state
from cowshed.model.host import Finding


class Host(HostContract):
    rooms: Rooms

    def get_host_ip_addr(self) -> str:
        from cowshed.host import facts

        return self.rooms.config.host.address or facts.address()

    def get_host_uptime(self) -> str:
        from cowshed.host import facts

        return facts.uptime()

    def get_host_cpu_stats(self) -> dict[str, int]:
        stats = self.rooms.hypervisor.cpu_stats()
        return {
            "kernel": stats.kernel,
            "idle": stats.idle,
            "user": stats.user,
            "iowait": stats.iowait,
            "frequency": stats.frequency,
        }

    def host_power_action(self, action: str) -> str:
        from cowshed.host import power

        return power.act(self.rooms.config.host, action)

    def set_host_enabled(self, enabled: bool) -> str:
        """Kept over restarts; ``spawn`` refuses while it is disabled."""
        if enabled:
            host_state.enable(self.rooms, host_state.DECIDED)
            return "enabled"
        host_state.disable(self.rooms, host_state.DECIDED, "somebody disabled it")
        return "disabled"

    def host_disabled(self) -> list[str]:
        """Why no new instances are taken; empty: they are."""
        return list(host_state.reasons(self.rooms).values())

    def doctor(self) -> list[Finding]:
        """What is missing or broken on this host, and how to mend it."""
        from cowshed.driver.steps import examine

        return examine.host(self.rooms)
