"""A tap device: somebody else connects its other end (a router, an SDN, a script)."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cowshed.config import NetworkSection, user
from cowshed.contract.plugging import Plugger
from cowshed.errors import InvalidRequest, NetworkNotFound
from cowshed.model.host import HostCapabilities
from cowshed.model.vif import PluggedVif, Vif
from cowshed.network import device, mac

_OURS: Final = "cowshed "  # how the alias of a device begins that we made


class TapPlugger(Plugger):
    """One that is there is used as it is, and must be its user's in session mode. In system mode a missing one is
    made, and only what was made here is removed again.
    """

    def __init__(self, section: NetworkSection, *, sys: Path = device.SYS) -> None:
        self.section = section
        self._sys = sys

    def check(self, vif: Vif, host: HostCapabilities) -> None:
        mac.check(vif.address)
        device.check_name(vif.source)
        if device.exists(vif.source, self._sys):
            if not device.is_tap(vif.source, self._sys):
                raise InvalidRequest(reason=f"{vif.source} is not a tap device", hint="use bridge:NAME or macvtap:NAME")
        elif host.session:
            raise NetworkNotFound(
                name=f"tap {vif.source}",
                hint=f"make it, as root: ip tuntap add {vif.source} mode tap user {user.name()}",
            )

    def plug(self, vif: Vif, host: HostCapabilities) -> PluggedVif:
        from cowshed.tools import ip

        if not device.exists(vif.source, self._sys):
            ip.add_tap(vif.source, alias=_OURS + vif.id)
        return PluggedVif(vif, target=vif.source, model=vif.model or self.section.model)

    def unplug(self, vif: Vif) -> None:
        from cowshed.tools import ip

        if device.alias(vif.source, self._sys) == _OURS + vif.id:
            ip.delete(vif.source)
