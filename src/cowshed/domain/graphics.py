"""VNC and SPICE: libvirt chooses the ports when the guest starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.element import Element, children, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen(Element):
    TAG: ClassVar[str] = "listen"

    type: str | None = value("@type")
    address: str | None = value("@address")


@dataclass(frozen=True, slots=True, kw_only=True)
class Graphics(Element):
    """``port`` is -1 until the guest runs."""

    TAG: ClassVar[str] = "graphics"

    type: str | None = value("@type")
    port: int | None = value("@port")
    autoport: bool | None = value("@autoport")
    listens: tuple[Listen, ...] = children()


def graphics(kind: str, listen: str) -> Graphics:
    return Graphics(type=kind, autoport=True, listens=(Listen(type="address", address=listen),))
