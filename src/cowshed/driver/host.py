"""Host: facts of this machine, and the doctor."""

from __future__ import annotations

from cowshed import log
from cowshed.contract.callbacks import NetworkWaiter
from cowshed.contract.host import Host as HostContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import host_state
from cowshed.model.host import Finding

_log = log.logger(__name__)


class Host(HostContract):
    rooms: Rooms
    virtapi: NetworkWaiter

    def node_uuid(self) -> str:
        """Of this host, made once and kept: it stays when the host is renamed."""
        return host_state.node_uuid(self.rooms)

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
        """Kept over restarts; ``spawn`` refuses while it is disabled. The control plane is told."""
        if enabled:
            host_state.enable(self.rooms, host_state.DECIDED)
        else:
            host_state.disable(self.rooms, host_state.DECIDED, "somebody disabled it")
        self._tell_control_plane()
        return "enabled" if enabled else "disabled"

    def _tell_control_plane(self) -> None:
        """Whether instances are taken, other reasons included. What it makes of that is logged."""
        try:
            self.virtapi.update_compute_provider_status(None, self.node_uuid(), enabled=not self.host_disabled())
        except Exception:  # noqa: BLE001 - somebody else's code; the host is enabled or disabled all the same
            _log.exception("the control plane does not know whether this host is enabled")

    def host_disabled(self) -> list[str]:
        """Why no new instances are taken; empty: they are."""
        return list(host_state.reasons(self.rooms).values())

    def doctor(self) -> list[Finding]:
        """What is missing or broken on this host, and how to mend it."""
        from cowshed.driver.steps import examine

        return examine.host(self.rooms)
