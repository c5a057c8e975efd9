"""Channels to programs in the guest: its agent, and SPICE's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from cowshed.domain.element import Element, value

AGENT: Final = "org.qemu.guest_agent.0"
SPICE: Final = "com.redhat.spice.0"


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel(Element):
    """``state`` is connected or disconnected while the guest runs."""

    TAG: ClassVar[str] = "channel"

    type: str | None = value("@type")
    target: str | None = value("target/@type")
    name: str | None = value("target/@name")
    state: str | None = value("target/@state")
