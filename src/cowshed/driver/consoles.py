"""Consoles: the serial log, interactive serial, VNC and SPICE."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from cowshed.contract.consoles import Consoles as ConsolesContract
from cowshed.contract.promise import refuse, unfulfilled
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import locate
from cowshed.errors import InstanceNotFound, UnsupportedOperation
from cowshed.model.console import SerialConsole, SpiceConsole, VncConsole
from cowshed.model.instance import Instance

_OTHERS = "ask for its VNC, SPICE or serial console"
OUTPUT = 100 * 1024  # the contract's size of get_console_output


class Consoles(ConsolesContract):
    rooms: Rooms

    def get_console_output(self, context: Any, instance: Instance) -> bytes:
        from cowshed.console import log

        path = self.console_log_path(instance)
        if not path.exists() and not self.rooms.hypervisor.find(instance.uuid):
            raise InstanceNotFound(name=instance.name)
        return log.tail(path, OUTPUT)

    def get_vnc_console(self, context: Any, instance: Instance) -> VncConsole:
        from cowshed.console import endpoints

        return endpoints.vnc(self.rooms.hypervisor.guest(instance.uuid))

    def get_spice_console(self, context: Any, instance: Instance) -> SpiceConsole:
        from cowshed.console import endpoints

        return endpoints.spice(self.rooms.hypervisor.guest(instance.uuid))

    def get_serial_console(self, context: Any, instance: Instance) -> SerialConsole:
        from cowshed.console import endpoints

        return endpoints.serial(self.rooms.hypervisor.guest(instance.uuid))

    @unfulfilled
    def get_rdp_console(self, context: Any, instance: Instance) -> Any:
        refuse(self, "get_rdp_console", "RDP is Hyper-V's console, and QEMU has no server for it", _OTHERS)

    @unfulfilled
    def get_mks_console(self, context: Any, instance: Instance) -> Any:
        refuse(self, "get_mks_console", "MKS is VMware's console, and QEMU has no server for it", _OTHERS)

    def get_console_pool_info(self, console_type: str) -> dict[str, str]:
        """Consoles are reached without a proxy: the address they listen on, no user name, no password."""
        section = self.rooms.config.console
        served = {"vnc": section.vnc, "spice": section.spice, "serial": section.serial_tcp}
        if not served.get(console_type):
            names = ", ".join(name for name, serves in served.items() if serves) or "none"
            refuse(self, "get_console_pool_info", f"no {console_type} consoles are served here (but: {names})")
        return {"address": section.listen, "username": "", "password": ""}

    # --- cowshed's own ------------------------------------------------------------------------

    def console_log_path(self, instance: Instance) -> Path:
        return locate.console_log(self.rooms, instance.uuid)

    def follow_console(
        self, instance: Instance, *, until: str | None = None, timeout: float | None = None, start: int = 0
    ) -> Iterator[bytes]:
        """The serial log from byte ``start`` and what is added, until ``until`` has appeared.

        :raises DeadlineExceeded: it did not appear in time
        """
        from cowshed.console import log

        return log.follow(self.console_log_path(instance), until=until, timeout=timeout, start=start)

    def attach_console(self, instance: Instance, stdin: IO[bytes], stdout: IO[bytes], escape: bytes = b"\x1d") -> None:
        """Join a terminal to the serial console until ``escape`` is typed or the guest ends.

        :raises InvalidState: the guest does not run
        :raises UnsupportedOperation: its serial console is served on TCP
        """
        from cowshed.console import terminal

        self._refuse_tcp(instance)
        terminal.attach(self.rooms.hypervisor.guest(instance.uuid), stdin, stdout, escape=escape)

    def _refuse_tcp(self, instance: Instance) -> None:
        """libvirt joins ptys only."""
        try:
            serial = self.get_serial_console(None, instance)
        except UnsupportedOperation:
            return
        raise UnsupportedOperation(
            subject=f"instance {instance.name}",
            operation="join a terminal",
            reason="its serial console is served on TCP",
            hint=f"connect to it instead: nc {serial.host} {serial.port}",
        )
