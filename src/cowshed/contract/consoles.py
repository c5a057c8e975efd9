"""Where a person can look at an instance."""

from __future__ import annotations

from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.model.console import SerialConsole, SpiceConsole, VncConsole
from cowshed.model.instance import Instance


class Consoles:
    """Where a person can look at an instance."""

    @unfulfilled
    def get_console_output(self, context: Any, instance: Instance) -> bytes:
        """The last 100 KiB of the serial console; empty when there is nothing yet."""
        refuse(self, "get_console_output")

    @unfulfilled
    def get_vnc_console(self, context: Any, instance: Instance) -> VncConsole:
        """Where its VNC server listens.

        :raises UnsupportedOperation: it has none :raises InstanceNotFound: :raises InvalidState: it is not running
        """
        refuse(self, "get_vnc_console")

    @unfulfilled
    def get_spice_console(self, context: Any, instance: Instance) -> SpiceConsole:
        """Where its SPICE server listens."""
        refuse(self, "get_spice_console")

    @unfulfilled
    def get_serial_console(self, context: Any, instance: Instance) -> SerialConsole:
        """Where its serial port listens on TCP."""
        refuse(self, "get_serial_console")

    @unfulfilled
    def get_rdp_console(self, context: Any, instance: Instance) -> Any:
        """A Hyper-V console; QEMU has none."""
        refuse(self, "get_rdp_console")

    @unfulfilled
    def get_mks_console(self, context: Any, instance: Instance) -> Any:
        """A VMware console; QEMU has none."""
        refuse(self, "get_mks_console")

    @unfulfilled
    def get_console_pool_info(self, console_type: str) -> dict[str, str]:
        """address, username and password of a pool of console proxies."""
        refuse(self, "get_console_pool_info")
