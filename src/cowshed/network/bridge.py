"""A bridge that the host has already."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from cowshed.config import NetworkSection
from cowshed.contract.plugging import Plugger
from cowshed.errors import NetworkNotFound, PermissionDenied, ToolMissing
from cowshed.model.host import HostCapabilities
from cowshed.model.vif import PluggedVif, Vif
from cowshed.network import mac

SYS: Final = Path("/sys/class/net")
ACL: Final = Path("/etc/qemu/bridge.conf")
HELPERS: Final = (Path("/usr/lib/qemu/qemu-bridge-helper"), Path("/usr/libexec/qemu-bridge-helper"))
_DEPTH: Final = 8  # of files that include files


class BridgePlugger(Plugger):
    """In session mode QEMU's bridge helper makes the tap device: it must be privileged, and allow the bridge."""

    def __init__(
        self, section: NetworkSection, *, sys: Path = SYS, acl: Path = ACL, helpers: Sequence[Path] = HELPERS
    ) -> None:
        self.section = section
        self._sys = sys
        self._acl = acl
        self._helpers = helpers

    def check(self, vif: Vif, host: HostCapabilities) -> None:
        mac.check(vif.address)
        if not vif.source or not (self._sys / vif.source / "bridge").is_dir():
            known = sorted(place.parent.name for place in self._sys.glob("*/bridge"))
            hint = f"bridges of this host: {', '.join(known)}" if known else "this host has no bridge; make one first"
            raise NetworkNotFound(name=f"bridge {vif.source}", hint=hint)
        if host.session:
            self._check_allowed(vif.source)
            self._check_helper()

    def _check_allowed(self, bridge: str) -> None:
        """As the helper reads its list: somebody must allow the bridge, and nobody deny it."""
        words = list(_lines(self._acl))
        allowed = ("allow", bridge) in words or ("allow", "all") in words
        denied = ("deny", bridge) in words or ("deny", "all") in words
        if denied or not allowed:
            what = (
                f"remove its deny line from {self._acl}" if denied else f"add the line 'allow {bridge}' to {self._acl}"
            )
            raise PermissionDenied(action="use bridge", path=bridge, hint=f"{what} (QEMU's bridge helper reads it)")

    def _check_helper(self) -> None:
        """Debian, for one, installs it without the set-uid bit."""
        helper = next((path for path in self._helpers if path.exists()), None)
        if helper is None:
            raise ToolMissing(tool="qemu-bridge-helper", hint="install QEMU's common files, or use --network user")
        if os.geteuid() != 0 and not _privileged(helper):
            raise PermissionDenied(
                action="make a tap device with", path=helper, hint=f"run: chmod u+s {helper}, as root"
            )

    def plug(self, vif: Vif, host: HostCapabilities) -> PluggedVif:
        return PluggedVif(vif, model=vif.model or self.section.model)

    def unplug(self, vif: Vif) -> None:
        """The tap device goes with QEMU."""


def _privileged(program: Path) -> bool:
    if program.stat().st_mode & stat.S_ISUID:
        return True
    try:
        return bool(os.getxattr(program, "security.capability"))
    except OSError:
        return False


def _lines(path: Path, depth: int = _DEPTH) -> Iterator[tuple[str, str]]:
    """(word, argument) of a list and of what it includes; what cannot be read allows nothing."""
    try:
        text = path.read_text(errors="replace")
    except OSError:
        return
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if len(words) != 2:
            continue
        if words[0] == "include" and depth:
            yield from _lines(Path(words[1]), depth - 1)
        yield words[0], words[1]
