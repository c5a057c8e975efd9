"""The balloon: what the guest knows of its memory, and what it does not use given back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from cowshed.domain.element import Element, switch, value

PERIOD: Final = 10  # seconds between two statistics; the contract's diagnostics read them


@dataclass(frozen=True, slots=True, kw_only=True)
class Memballoon(Element):
    """``<memballoon>``: gives back, and counts, a guest's memory."""

    TAG: ClassVar[str] = "memballoon"

    model: str | None = value("@model")
    free_page_reporting: bool | None = switch("@freePageReporting")
    period: int | None = value("stats/@period")


MEMBALLOON: Final = Memballoon(model="virtio", free_page_reporting=True, period=PERIOD)
