"""A bridge that the host has already."""

from __future__ import annotations

from pathlib import Path

from cowshed.config import NetworkSection
from cowshed.contract.plugging import Plugger
from cowshed.errors import NetworkNotFound, PermissionDenied
from cowshed.model.host import HostCapabilities
from cowshed.model.vif import PluggedVif, Vif

SYS = Path("/sys/class/net")
ACL = Path("/etc/qemu/bridge.conf")


class BridgePlugger(Plugger):
    def __init__(self, section: NetworkSection, *, sys: Path = SYS, acl: Path = ACL) -> None:
        self.section = section
        self._sys = sys
        self._acl = acl

    def check(self, vif: Vif, host: HostCapabilities) -> None:
        if not (self._sys / vif.source / "bridge").is_dir():
            known = sorted(place.parent.name for place in self._sys.glob("*/bridge"))
            hint = f"bridges of this host: {', '.join(known)}" if known else "this host has no bridge; make one first"
            raise NetworkNotFound(name=f"bridge {vif.source}", hint=hint)
        if host.session and not self._allowed(vif.source):
            raise PermissionDenied(
                action="use bridge",
                path=vif.source,
                hint=f"add the line 'allow {vif.source}' to {self._acl} (QEMU's bridge helper reads it)",
            )

    def _allowed(self, bridge: str) -> bool:
        """In session mode QEMU's set-uid helper makes the tap device, if its list allows the bridge."""
        try:
            words = [line.split() for line in self._acl.read_text().splitlines()]
        except OSError:
            return False
        return ["allow", bridge] in words or ["allow", "all"] in words

    def plug(self, vif: Vif, host: HostCapabilities) -> PluggedVif:
        return PluggedVif(vif, model=vif.model or self.section.model)

    def unplug(self, vif: Vif) -> None:
        """The tap device goes with QEMU."""
