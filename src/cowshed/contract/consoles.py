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
        """The last 100 KiB of the serial console; empty when there is nothing yet.

        Works for running and stopped instances; what was printed before a restart is part of it.

        :raises InstanceNotFound: :raises UnsupportedOperation: the instance has no serial log
        """
        refuse(self, "get_console_output")

    @unfulfilled
    def get_vnc_console(self, context: Any, instance: Instance) -> VncConsole:
        """Where its VNC server listens: ``host``, ``port``, ``internal_access_path``.

        :raises InstanceNotFound: :raises InvalidState: it is not running
        :raises UnsupportedOperation: it has no VNC server
        """
        refuse(self, "get_vnc_console")

    @unfulfilled
    def get_spice_console(self, context: Any, instance: Instance) -> SpiceConsole:
        """Where its SPICE server listens: as for VNC, and ``tlsPort`` (None without TLS).

        Errors are those of :meth:`get_vnc_console`.
        """
        refuse(self, "get_spice_console")

    @unfulfilled
    def get_serial_console(self, context: Any, instance: Instance) -> SerialConsole:
        """Where its serial port listens on TCP: ``host`` and ``port``.

        Errors are those of :meth:`get_vnc_console`. For one reader at a time; the log has everything for many.
        """
        refuse(self, "get_serial_console")

    @unfulfilled
    def get_rdp_console(self, context: Any, instance: Instance) -> Any:
        """Where a Hyper-V console listens. QEMU has none: no driver on it can fulfil this."""
        refuse(self, "get_rdp_console")

    @unfulfilled
    def get_mks_console(self, context: Any, instance: Instance) -> Any:
        """Where a VMware console listens. QEMU has none: no driver on it can fulfil this."""
        refuse(self, "get_mks_console")

    @unfulfilled
    def get_console_pool_info(self, console_type: str) -> dict[str, str]:
        """``address``, ``username`` and ``password`` of a pool of console proxies.

        :param console_type: such as ``vnc``
        :raises UnsupportedOperation: there are no proxies of this type; nothing is made up
        """
        refuse(self, "get_console_pool_info")
