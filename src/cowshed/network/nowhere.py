"""No network at all."""

from __future__ import annotations

from cowshed.contract.plugging import Plugger
from cowshed.model.host import HostCapabilities
from cowshed.model.vif import PluggedVif, Vif


class NowherePlugger(Plugger):
    def check(self, vif: Vif, host: HostCapabilities) -> None:
        pass

    def plug(self, vif: Vif, host: HostCapabilities) -> PluggedVif:
        return PluggedVif(vif)

    def unplug(self, vif: Vif) -> None:
        pass
