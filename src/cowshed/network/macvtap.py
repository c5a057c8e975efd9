"""A device of the host that the guest shares: packets leave by it, and the host itself does not see them."""

from __future__ import annotations

from pathlib import Path

from cowshed.config import NetworkSection
from cowshed.contract.plugging import Plugger
from cowshed.errors import UnsupportedOperation
from cowshed.model.host import HostCapabilities
from cowshed.model.vif import PluggedVif, Vif
from cowshed.network import device, mac


class MacvtapPlugger(Plugger):
    """libvirt makes the macvtap device with the guest, and it goes with it."""

    def __init__(self, section: NetworkSection, *, sys: Path = device.SYS) -> None:
        self.section = section
        self._sys = sys

    def check(self, vif: Vif, host: HostCapabilities) -> None:
        mac.check(vif.address)
        device.check_name(vif.source)
        device.require("device", vif.source, self._sys)
        if host.session:
            raise UnsupportedOperation(
                subject="libvirt in session mode",
                operation="make a macvtap device",
                reason="that needs root",
                hint="use --connect qemu:///system, or --network user",
            )

    def plug(self, vif: Vif, host: HostCapabilities) -> PluggedVif:
        return PluggedVif(vif, model=vif.model or self.section.model)

    def unplug(self, vif: Vif) -> None:
        """libvirt removes its device with the guest."""
