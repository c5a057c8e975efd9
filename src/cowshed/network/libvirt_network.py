"""A network that libvirt keeps (``virsh net-list``)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from cowshed.config import NetworkSection
from cowshed.contract.plugging import Plugger
from cowshed.errors import NetworkNotFound
from cowshed.model.host import HostCapabilities
from cowshed.model.vif import PluggedVif, Vif
from cowshed.network import mac


class Network(Protocol):
    """What a plugger must know of one."""

    @property
    def name(self) -> str: ...
    @property
    def active(self) -> bool: ...


class NetworkPlugger(Plugger):
    def __init__(
        self, section: NetworkSection, networks: Callable[[], Sequence[Network]], start: Callable[[str], None]
    ) -> None:
        self.section = section
        self._networks = networks
        self._start = start

    def check(self, vif: Vif, host: HostCapabilities) -> None:
        mac.check(vif.address)
        self._find(vif, host)

    def plug(self, vif: Vif, host: HostCapabilities) -> PluggedVif:
        """An idle network is started: it is there to be used."""
        if not self._find(vif, host).active:
            self._start(vif.source)
        return PluggedVif(vif, model=vif.model or self.section.model)

    def unplug(self, vif: Vif) -> None:
        """libvirt removes its tap device with the guest."""

    def _find(self, vif: Vif, host: HostCapabilities) -> Network:
        known = {network.name: network for network in self._networks()}
        if vif.source in known:
            return known[vif.source]
        hint = f"known: {', '.join(sorted(known))}" if known else "libvirt has no networks here"
        if host.session:
            hint += "; in session mode use --network user, or --connect qemu:///system"
        raise NetworkNotFound(name=vif.source, hint=hint)
