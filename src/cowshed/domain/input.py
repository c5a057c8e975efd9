"""Keyboard and pointer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.element import Element, value
from cowshed.domain.properties import Properties


@dataclass(frozen=True, slots=True, kw_only=True)
class Input(Element):
    """``<input>``: a keyboard, a mouse or a tablet."""

    TAG: ClassVar[str] = "input"

    type: str | None = value("@type")
    bus: str | None = value("@bus")


def inputs(properties: Properties, *, seen: bool) -> tuple[Input, ...]:
    """A pointer that is where the viewer's is; the keyboard is the machine's own.

    :raises InvalidRequest: a pointer or bus that does not exist
    """
    pointer = properties.word("hw_pointer_model", "usbtablet", ("usbtablet", "ps2mouse"))
    bus = properties.word("hw_input_bus", "usb", ("usb", "virtio"))
    return (Input(type="tablet", bus=bus),) if seen and pointer == "usbtablet" else ()
