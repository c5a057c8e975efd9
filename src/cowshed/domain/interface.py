"""Network interfaces that libvirt makes; see ``commandline`` for the ones it cannot."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.bandwidth import Bandwidth
from cowshed.domain.element import Element, child, children, value
from cowshed.errors import InvalidRequest, UnsupportedOperation
from cowshed.model.vif import PluggedVif, PortForward, VifType


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward(Element):
    """``<portForward>``: passt's, one port each."""

    TAG: ClassVar[str] = "portForward"

    protocol: str | None = value("@proto")
    address: str | None = value("@address")
    start: int | None = value("range/@start")
    to: int | None = value("range/@to")


@dataclass(frozen=True, slots=True, kw_only=True)
class Interface(Element):
    TAG: ClassVar[str] = "interface"

    type: str | None = value("@type")
    mac: str | None = value("mac/@address")
    network: str | None = value("source/@network")
    bridge: str | None = value("source/@bridge")
    backend: str | None = value("backend/@type")
    target: str | None = value("target/@dev")
    model: str | None = value("model/@type")
    queues: int | None = value("driver/@queues")
    mtu: int | None = value("mtu/@size")
    link: str | None = value("link/@state")
    alias: str | None = value("alias/@name")
    bandwidth: Bandwidth | None = child()
    forwards: tuple[Forward, ...] = children()


def interface(
    plugged: PluggedVif, *, model: str, queues: int | None = None, bandwidth: Bandwidth | None = None
) -> Interface:
    """:param queues: pairs of them, for virtio on a host device
    :param bandwidth: its limits, which need a host device
    :raises InvalidRequest: the vif lacks what its type needs
    :raises UnsupportedOperation: limits on a user network
    """
    vif = plugged.vif
    if vif.type in (VifType.NETWORK, VifType.BRIDGE) and not vif.source:
        raise InvalidRequest(reason=f"interface {vif.address} does not name its {vif.type}")
    if vif.type == VifType.NONE:
        raise InvalidRequest(reason=f"interface {vif.address} leads nowhere")
    on_host = vif.type in (VifType.NETWORK, VifType.BRIDGE)
    if bandwidth and not on_host:
        raise UnsupportedOperation(
            subject="the user network",
            operation="limit an interface",
            reason="there is no device on the host to limit",
            hint="use a libvirt network or a bridge, or a flavor without quota:vif_... extra specs",
        )
    passt = vif.type == VifType.USER and plugged.backend == "passt"
    return Interface(
        type=vif.type.value,
        mac=vif.address,
        network=vif.source if vif.type == VifType.NETWORK else None,
        bridge=vif.source if vif.type == VifType.BRIDGE else None,
        backend="passt" if passt else None,
        target=plugged.target or None,
        model=model,
        queues=queues if on_host and model == "virtio" else None,
        bandwidth=bandwidth,
        mtu=vif.mtu if on_host else None,
        link=None if plugged.link_up else "down",
        forwards=tuple(forward(one) for one in vif.forwards) if passt else (),
    )


def forward(one: PortForward) -> Forward:
    return Forward(
        protocol=one.protocol.value,
        address=str(checked(one)),
        start=one.host_port,
        to=one.guest_port,
    )


def checked(one: PortForward) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The host's address of a forward, whose ports are ports.

    :raises InvalidRequest:
    """
    for port in (one.host_port, one.guest_port):
        if not 0 < port < 65536:
            raise InvalidRequest(reason=f"{port} is not a port", hint="ports are 1 to 65535")
    try:
        return ipaddress.ip_address(one.host_address or "0.0.0.0")  # noqa: S104 - what an empty address means
    except ValueError as error:
        raise InvalidRequest(reason=f"{one.host_address!r} is not an IP address") from error
