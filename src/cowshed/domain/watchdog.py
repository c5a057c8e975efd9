"""The watchdog: what happens when the guest hangs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from cowshed.domain.element import Element, value
from cowshed.domain.properties import Properties

ACTIONS: Final = ("none", "pause", "poweroff", "reset")


@dataclass(frozen=True, slots=True, kw_only=True)
class Watchdog(Element):
    """``<watchdog>``: what happens to a guest that does not answer it."""

    TAG: ClassVar[str] = "watchdog"

    model: str | None = value("@model")
    action: str | None = value("@action")


def watchdogs(properties: Properties) -> tuple[Watchdog, ...]:
    """:raises InvalidRequest: an action that does not exist"""
    action = properties.word("hw_watchdog_action", "disabled", ("disabled", *ACTIONS))
    return () if action == "disabled" else (Watchdog(model="i6300esb", action=action),)
