"""The user network: out through the host's own sockets, in through port forwards. No root.

passt where libvirt and the host have it (libvirt 9.2 is the first to know it well; Debian 12's 9.0
refuses it), else slirp, which is part of QEMU.
"""

from __future__ import annotations

import socket
from collections import Counter

from cowshed.config import NetworkSection
from cowshed.contract.plugging import Plugger
from cowshed.errors import InvalidRequest, PortInUse, UnsupportedOperation
from cowshed.model.host import HostCapabilities
from cowshed.model.vif import PluggedVif, PortForward, Protocol, Vif


class UserPlugger(Plugger):
    def __init__(self, section: NetworkSection) -> None:
        self.section = section

    def check(self, vif: Vif, host: HostCapabilities) -> None:
        self._backend(host)
        keys = Counter((forward.protocol, forward.host_address, forward.host_port) for forward in vif.forwards)
        for (protocol, address, port), count in keys.items():
            if count > 1:
                raise InvalidRequest(reason=f"port {port}/{protocol} on {address} is forwarded twice")
        for forward in vif.forwards:
            check_free(forward)

    def plug(self, vif: Vif, host: HostCapabilities) -> PluggedVif:
        return PluggedVif(vif, backend=self._backend(host), model=vif.model or self.section.model)

    def unplug(self, vif: Vif) -> None:
        """It ends with QEMU."""

    def _backend(self, host: HostCapabilities) -> str:
        wanted = self.section.user_backend
        if wanted == "auto":
            return "passt" if host.passt else "slirp"
        if wanted == "passt" and not host.passt:
            raise UnsupportedOperation(
                subject="this host",
                operation="use passt",
                reason="libvirt or the passt program is too old or missing",
                hint="set [network] user_backend to auto",
            )
        return wanted


def check_free(forward: PortForward) -> None:
    """:raises PortInUse: somebody listens there already :raises InvalidRequest: not an address of this host"""
    family = socket.AF_INET6 if ":" in forward.host_address else socket.AF_INET
    kind = socket.SOCK_STREAM if forward.protocol == Protocol.TCP else socket.SOCK_DGRAM
    with socket.socket(family, kind) as probe:
        if kind == socket.SOCK_STREAM:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((forward.host_address, forward.host_port))
        except PermissionError:
            raise InvalidRequest(
                reason=f"port {forward.host_port} needs root", hint="forward a port from 1024 on"
            ) from None
        except OSError as error:
            if error.errno == 98:  # EADDRINUSE
                raise PortInUse(
                    port=forward.host_port,
                    address=forward.host_address,
                    hint="choose another port, or 0 for any free one",
                ) from None
            raise InvalidRequest(reason=f"{forward.host_address} is not an address of this host: {error}") from error


def free_port(address: str = "127.0.0.1", protocol: Protocol = Protocol.TCP) -> int:
    """A port of ``address`` that nobody uses just now."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM if protocol == Protocol.TCP else socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        port: int = probe.getsockname()[1]
        return port
