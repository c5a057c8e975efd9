"""VNC and SPICE: libvirt chooses the ports when the guest starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.consoles import ConsolePlan
from cowshed.domain.element import Element, children, value
from cowshed.errors import UnsupportedOperation
from cowshed.model.host import HostCapabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen(Element):
    """``<listen>``: where a graphical console is served."""

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


def graphics(consoles: ConsolePlan, host: HostCapabilities) -> tuple[Graphics, ...]:
    """:raises UnsupportedOperation: this QEMU lacks what was asked for"""
    kinds = [kind for kind, wanted in (("vnc", consoles.vnc), ("spice", consoles.spice)) if wanted]
    for kind in kinds:
        if kind not in host.graphics:
            raise UnsupportedOperation(
                subject="QEMU on this host",
                operation=f"offer {kind.upper()}",
                reason="it was built, or is installed, without it",
                hint="install QEMU's modules (Debian: qemu-system-gui), or turn it off in [console]",
            )
    listen = (Listen(type="address", address=consoles.listen),)
    return tuple(Graphics(type=kind, autoport=True, listens=listen) for kind in kinds)
