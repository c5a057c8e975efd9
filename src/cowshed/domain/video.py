"""The graphics card."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.element import Element, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Video(Element):
    """``vram`` in KiB (libvirt's unit here)."""

    TAG: ClassVar[str] = "video"

    model: str | None = value("model/@type")
    vram: int | None = value("model/@vram")
