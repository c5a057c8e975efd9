"""Which consoles an instance gets."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class ConsolePlan:
    """``log`` is the file of the first serial port; ``serial_ports`` are TCP ports on ``listen`` for the
    first serial ports, instead of ptys. VNC and SPICE listen on ``listen`` as well.
    """

    log: Path
    vnc: bool = True
    spice: bool = False
    listen: str = "127.0.0.1"
    serial_ports: tuple[int, ...] = ()

    @property
    def seen(self) -> bool:
        """Does anybody see its screen?"""
        return self.vnc or self.spice
