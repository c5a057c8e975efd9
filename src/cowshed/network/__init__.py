"""Network: the host side of interfaces, one plugger a type."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from cowshed.config import NetworkSection
from cowshed.contract.plugging import Plugger
from cowshed.model.vif import VifType
from cowshed.network.bridge import BridgePlugger
from cowshed.network.libvirt_network import Network, NetworkPlugger
from cowshed.network.macvtap import MacvtapPlugger
from cowshed.network.nowhere import NowherePlugger
from cowshed.network.os_vif import OvsPlugger
from cowshed.network.tap import TapPlugger
from cowshed.network.user import UserPlugger


def open_pluggers(
    section: NetworkSection,
    *,
    networks: Callable[[], Sequence[Network]],
    start_network: Callable[[str], None],
) -> Mapping[VifType, Plugger]:
    """Every plugger of this host.

    :param networks: what libvirt knows; asked only when an interface needs it
    :param start_network: starts an idle one
    """
    return {
        VifType.USER: UserPlugger(section),
        VifType.NETWORK: NetworkPlugger(section, networks, start_network),
        VifType.BRIDGE: BridgePlugger(section),
        VifType.TAP: TapPlugger(section),
        VifType.MACVTAP: MacvtapPlugger(section),
        VifType.OVS: OvsPlugger(section),
        VifType.NONE: NowherePlugger(),
    }
