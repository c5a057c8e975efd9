"""Keyboard and pointer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.element import Element, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Input(Element):
    TAG: ClassVar[str] = "input"

    type: str | None = value("@type")
    bus: str | None = value("@bus")
