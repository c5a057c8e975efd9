"""The graphics card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.consoles import ConsolePlan
from cowshed.domain.element import Element, value
from cowshed.domain.properties import Properties
from cowshed.errors import InvalidRequest, UnsupportedOperation
from cowshed.model.host import HostCapabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Video(Element):
    """``vram`` in KiB (libvirt's unit here)."""

    TAG: ClassVar[str] = "video"

    model: str | None = value("model/@type")
    vram: int | None = value("model/@vram")


def video(properties: Properties, consoles: ConsolePlan, host: HostCapabilities) -> Video:
    """VGA shows something in every guest from its first instruction on; nobody looking needs none.

    :raises UnsupportedOperation: this QEMU lacks the model
    :raises InvalidRequest: more video memory than the flavor allows
    """
    default = "vga" if consoles.seen else "none"
    if consoles.spice and "qxl" in host.video_models:
        default = "qxl"
    model = properties.text("hw_video_model") or default
    if model not in ("none", default) and host.video_models and model not in host.video_models:
        raise UnsupportedOperation(
            subject="QEMU on this host",
            operation=f"make a {model} video card",
            reason=f"it has {', '.join(host.video_models)}",
            hint="change hw_video_model in the image's properties",
        )
    return Video(model=model, vram=_vram(properties))


def _vram(properties: Properties) -> int | None:
    """KiB; the image asks in MiB, within what the flavor allows."""
    asked = properties.number("hw_video_ram")
    allowed = Properties(image=properties.flavor).number("hw_video:ram_max_mb") or 0
    if asked and asked > allowed:
        raise InvalidRequest(
            reason=f"hw_video_ram: {asked} MiB is more than the {allowed} the flavor allows (hw_video:ram_max_mb)"
        )
    return asked * 1024 if asked else None
