"""Where a device sits; libvirt chooses what is not said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.element import Element, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Address(Element):
    """For ``type`` drive: ``controller``, ``target`` and ``unit`` as decimal numbers; for ``pci``: the four
    others as libvirt writes them (``0x1f``)."""

    TAG: ClassVar[str] = "address"

    type: str | None = value("@type")
    controller: int | None = value("@controller")
    target: int | None = value("@target")
    unit: int | None = value("@unit")
    domain: str | None = value("@domain")
    bus: str | None = value("@bus")
    slot: str | None = value("@slot")
    function: str | None = value("@function")

    @property
    def pci(self) -> str:
        """As Linux writes it (``0000:00:05.0``); "" for another kind of address."""
        if self.type != "pci":
            return ""
        domain, bus, slot, function = (int(one or "0", 16) for one in (self.domain, self.bus, self.slot, self.function))
        return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"
