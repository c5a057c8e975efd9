"""Host: facts of this machine, and the doctor."""

from __future__ import annotations

from cowshed.contract.host import Host as HostContract
from cowshed.driver.rooms import Rooms
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

    def doctor(self) -> list[Finding]:
        """What is missing or broken on this host, and how to mend it."""
        from cowshed.driver.steps import examine

        return examine.host(self.rooms)
