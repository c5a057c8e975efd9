"""Network interfaces that libvirt makes; see ``commandline`` for the ones it cannot."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Final
from xml.etree import ElementTree as ET

from cowshed.domain.bandwidth import Bandwidth
from cowshed.domain.element import Element, child, children, parse, value
from cowshed.errors import InvalidRequest, UnsupportedOperation
from cowshed.model.vif import LOCAL, PluggedVif, PortForward, Vif, VifType

_TYPES: Final = {VifType.TAP: "ethernet", VifType.MACVTAP: "direct", VifType.OVS: "bridge"}  # libvirt's words for ours
MACVTAP_MODES: Final = ("bridge", "vepa", "private", "passthrough")
_ALIAS: Final = re.compile(r"[A-Za-z0-9_-]{1,60}")


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
    """``<interface>``: a network card and what it is connected to."""

    TAG: ClassVar[str] = "interface"

    type: str | None = value("@type")
    mac: str | None = value("mac/@address")
    network: str | None = value("source/@network")
    bridge: str | None = value("source/@bridge")
    device: str | None = value("source/@dev")
    mode: str | None = value("source/@mode")
    virtualport: str | None = value("virtualport/@type")
    port: str | None = value("virtualport/parameters/@interfaceid")
    backend: str | None = value("backend/@type")
    target: str | None = value("target/@dev")
    managed: bool | None = value("target/@managed")
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
    on_host = vif.type not in LOCAL
    if on_host and not vif.source:
        raise InvalidRequest(reason=f"interface {vif.address} does not name its {vif.type}")
    if vif.type == VifType.NONE:
        raise InvalidRequest(reason=f"interface {vif.address} leads nowhere")
    if bandwidth and not on_host:
        raise UnsupportedOperation(
            subject="the user network",
            operation="limit an interface",
            reason="there is no device on the host to limit",
            hint="use a libvirt network or a bridge, or a flavor without quota:vif_... extra specs",
        )
    made_here = on_host and vif.type != VifType.TAP  # a tap has the queues and the MTU it was made with
    passt = vif.type == VifType.USER and plugged.backend == "passt"
    return Interface(
        type=_TYPES.get(vif.type, vif.type.value),
        mac=vif.address,
        network=vif.source if vif.type == VifType.NETWORK else None,
        bridge=vif.source if vif.type in (VifType.BRIDGE, VifType.OVS) else None,
        device=vif.source if vif.type == VifType.MACVTAP else None,
        mode=_mode(vif) if vif.type == VifType.MACVTAP else None,
        virtualport="openvswitch" if vif.type == VifType.OVS else None,
        port=(vif.details.get("interface_id") or vif.id) if vif.type == VifType.OVS else None,
        backend="passt" if passt else None,
        target=plugged.target or (vif.source if vif.type == VifType.TAP else None),
        managed=False if vif.type == VifType.TAP else None,
        model=model,
        queues=queues if made_here and model == "virtio" else None,
        bandwidth=bandwidth,
        mtu=vif.mtu if made_here else None,
        link=None if plugged.link_up else "down",
        alias=alias(vif),
        forwards=tuple(forward(one) for one in vif.forwards) if passt else (),
    )


def _mode(vif: Vif) -> str:
    """:raises InvalidRequest: macvtap has no such mode"""
    mode = vif.details.get("macvtap_mode") or "bridge"
    if mode not in MACVTAP_MODES:
        raise InvalidRequest(reason=f"macvtap has no mode {mode!r}", hint=f"known: {', '.join(MACVTAP_MODES)}")
    return mode


def alias(vif: Vif) -> str | None:
    """The name by which libvirt's events tell of it; None where its id is no such name."""
    return f"ua-{vif.id}" if _ALIAS.fullmatch(vif.id) else None


# --- in a domain that is there --------------------------------------------------------------------


def finder(vif: Vif) -> Callable[[str], Interface | None]:
    """Finds the interface in a domain: by alias, else by MAC address."""

    def look(xml: str) -> Interface | None:
        found = [Interface.from_node(node) for node in parse(xml).findall("devices/interface")]
        name = alias(vif)
        for one in found:
            if name and one.alias == name:
                return one
        for one in found:
            if (one.mac or "").lower() == vif.address.lower() and not (one.alias or "").startswith("ua-"):
                return one
        return None

    return look


def with_link(xml: str, address: str, *, up: bool) -> str | None:
    """The interface's element of a domain as it is, but for the state of its link; None: it is not there.

    Everything else stays as libvirt wrote it, because it refuses to change what it finds changed.
    """
    for node in parse(xml).findall("devices/interface"):
        mac = node.find("mac")
        if mac is None or mac.get("address", "").lower() != address.lower():
            continue
        for link in node.findall("link"):
            node.remove(link)
        ET.SubElement(node, "link", state="up" if up else "down")
        return ET.tostring(node, encoding="unicode")
    return None


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
