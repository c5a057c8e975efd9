"""The user network: out through the host's own sockets, in through port forwards. No root.

passt where libvirt and the host have it (libvirt 9.2 is the first to know it well; Debian 12's 9.0
refuses it), else slirp, which is part of QEMU.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Final

from cowshed.config import NetworkSection
from cowshed.contract.plugging import Plugger
from cowshed.errors import InvalidRequest, PortInUse, UnsupportedOperation
from cowshed.model.host import HostCapabilities
from cowshed.model.vif import PluggedVif, PortForward, Protocol, Vif
from cowshed.network import mac

_EVERY: Final = {"0.0.0.0", "::", ""}  # noqa: S104 - compared with, not listened on


class UserPlugger(Plugger):
    def __init__(self, section: NetworkSection) -> None:
        self.section = section

    def check(self, vif: Vif, host: HostCapabilities) -> None:
        mac.check(vif.address)
        self._backend(host)
        _refuse_repeated(vif.forwards)
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


def _refuse_repeated(forwards: Sequence[PortForward]) -> None:
    """:raises InvalidRequest: two forwards want one port of one address (0.0.0.0 and :: are every address)"""
    for number, one in enumerate(forwards):
        for other in forwards[:number]:
            same = one.host_address == other.host_address or _EVERY & {one.host_address, other.host_address}
            if same and (one.protocol, one.host_port) == (other.protocol, other.host_port):
                reason = f"port {one.host_port}/{one.protocol} on {one.host_address} is forwarded twice"
                raise InvalidRequest(reason=reason, hint="give each forward a host port of its own")


def check_free(forward: PortForward) -> None:
    """:raises PortInUse: somebody listens there already :raises InvalidRequest: not an address of this host"""
    _bound(forward.host_address, forward.host_port, forward.protocol)


def free_port(address: str = "127.0.0.1", protocol: Protocol = Protocol.TCP) -> int:
    """A port of ``address`` that nobody uses just now. :raises InvalidRequest: not an address of this host"""
    return _bound(address, 0, protocol)


def _bound(address: str, port: int, protocol: Protocol) -> int:
    """The port that could be had for a moment."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == Protocol.TCP else socket.SOCK_DGRAM
    try:
        with socket.socket(family, kind) as probe:
            if kind == socket.SOCK_STREAM and port:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
            found: int = probe.getsockname()[1]
            return found
    except PermissionError:
        raise InvalidRequest(reason=f"port {port} needs root", hint="forward a port from 1024 on") from None
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = "choose another port, or 0 for any free one"
            raise PortInUse(port=port, address=address, hint=hint) from None
        raise InvalidRequest(reason=f"{address} is not an address of this host: {error.strerror}") from error
