"""Where a device sits; libvirt chooses what is not said."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.element import Element, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Address(Element):
    """For ``type`` drive: ``controller``, ``bus``, ``target`` and ``unit`` as decimal numbers."""

    TAG: ClassVar[str] = "address"

    type: str | None = value("@type")
    controller: int | None = value("@controller")
    target: int | None = value("@target")
    unit: int | None = value("@unit")
