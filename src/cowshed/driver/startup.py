"""Startup: init_host and cleanup_host."""

from __future__ import annotations

from cowshed.contract.startup import Startup as StartupContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import (
    arriving,
    capture_clean,
    filtering,
    host_state,
    settling,
    shares,
    sweep,
    volume_settling,
)


class Startup(StartupContract):
    rooms: Rooms

    def init_host(self, host: str) -> None:
        """Reach libvirt and clear away what a killed process left behind.

        :raises HypervisorUnavailable: libvirt cannot be reached
        """
        self.rooms.hypervisor.expect_events()
        host_state.watch_libvirt(self.rooms)
        settling.recover(self.rooms)
        arriving.recover(self.rooms)
        sweep.leftovers(self.rooms)
        volume_settling.recover(self.rooms)
        shares.unmount_unused(self.rooms)
        capture_clean.recover(self.rooms)
        filtering.sweep(self.rooms)

    def clear_leftovers(self) -> None:
        """Finish what killed processes left half done, also in the storage of the backends; what fails is logged."""
        sweep.leftovers(self.rooms)

    def cleanup_host(self, host: str) -> None:
        self.rooms.close()
