"""The watchdog: what happens when the guest hangs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from cowshed.domain.element import Element, value

ACTIONS: Final = ("none", "pause", "poweroff", "reset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog(Element):
    TAG: ClassVar[str] = "watchdog"

    model: str | None = value("@model")
    action: str | None = value("@action")
