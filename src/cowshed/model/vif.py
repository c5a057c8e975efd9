"""Vif: a network interface, as asked for and as plugged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class VifType(StrEnum):
    """Where it leads: QEMU's own user network, a libvirt network, a bridge of the host, a tap device that somebody
    else connects, a device of the host that it shares (macvtap), an Open vSwitch bridge, nowhere.
    """

    USER = "user"
    NETWORK = "network"
    BRIDGE = "bridge"
    TAP = "tap"
    MACVTAP = "macvtap"
    OVS = "ovs"
    NONE = "none"


LOCAL = (VifType.USER, VifType.NONE)
"""What has no device on the host."""


class Protocol(StrEnum):
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True)
class PortForward:
    """``host_address:host_port`` on the host leads to ``guest_port`` in the guest."""

    host_port: int
    guest_port: int
    protocol: Protocol = Protocol.TCP
    host_address: str = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Subnet:
    """What network data tells the guest; without ``address`` it uses DHCP. ``cidr`` like 10.0.0.0/24."""

    cidr: str
    address: str = ""
    gateway: str = ""
    dns: tuple[str, ...] = ()
    routes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Vif:
    """One interface asked for. ``source`` names the libvirt network, the bridge, the tap or the shared device.

    ``groups`` are its security groups; with none its packets are not filtered. ``tag`` is a word by which the guest
    finds it among its devices. One that is not ``active`` is being connected by somebody else, who says when it is
    done (:class:`cowshed.contract.callbacks.NetworkWaiter`): the guest stands still until then.
    """

    id: str
    address: str
    type: VifType = VifType.USER
    source: str = ""
    model: str = ""
    forwards: tuple[PortForward, ...] = ()
    subnets: tuple[Subnet, ...] = ()
    mtu: int | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    tag: str = ""
    active: bool = True


@dataclass(frozen=True, slots=True)
class PluggedVif:
    """A vif after its host side exists: all that domain XML needs.

    ``backend`` for type user: ``passt`` or ``slirp``; ``target`` the host device, if any.
    """

    vif: Vif
    backend: str = ""
    target: str = ""
    model: str = "virtio"
    link_up: bool = True
