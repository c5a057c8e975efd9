"""Channels to programs in the guest: its agent, and SPICE's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from cowshed.config import GuestSection
from cowshed.domain.element import Element, value
from cowshed.domain.properties import Properties

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


def channels(properties: Properties, guest: GuestSection, *, spice: bool) -> tuple[Channel, ...]:
    """The agent's where image or configuration want it, SPICE's with SPICE."""
    asked = properties.flag("hw_qemu_guest_agent")
    agent = guest.agent if asked is None else asked
    wanted = (("unix", AGENT, agent), ("spicevmc", SPICE, spice))
    return tuple(Channel(type=kind, target="virtio", name=name) for kind, name, is_wanted in wanted if is_wanted)
