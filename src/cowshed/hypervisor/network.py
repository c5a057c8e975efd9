"""Networks that libvirt itself keeps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from cowshed.hypervisor.binding import libvirt


@dataclass(frozen=True, slots=True)
class NetworkFact:
    """``bridge`` is "" for a network without a bridge of its own (macvtap, SR-IOV)."""

    name: str
    active: bool
    bridge: str = ""
    autostart: bool = False


def networks(connection: Any) -> list[NetworkFact]:
    return [_fact(network) for network in connection.listAllNetworks()]


def _fact(network: Any) -> NetworkFact:
    try:
        bridge = network.bridgeName()
    except libvirt().libvirtError:
        bridge = ""  # libvirt's way to say that there is none
    return NetworkFact(network.name(), bool(network.isActive()), bridge or "", bool(network.autostart()))


def start(connection: Any, name: str) -> None:
    network = connection.networkLookupByName(name)
    if not network.isActive():
        network.create()
