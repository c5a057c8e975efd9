"""What the machine is and what it boots: machine type, firmware, or a kernel given directly."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cowshed.domain.element import Element, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Os(Element):
    """``<os>``. Which disk boots is said by each disk's own order, so there is no ``<boot>`` here."""

    TAG: ClassVar[str] = "os"

    type: str = value("type", "hvm")
    arch: str | None = value("type/@arch")
    machine: str | None = value("type/@machine")
    loader: Path | None = value("loader")
    loader_readonly: bool | None = value("loader/@readonly")
    loader_secure: bool | None = value("loader/@secure")
    loader_type: str | None = value("loader/@type")
    nvram: Path | None = value("nvram")
    nvram_template: Path | None = value("nvram/@template")
    kernel: Path | None = value("kernel")
    initrd: Path | None = value("initrd")
    cmdline: str | None = value("cmdline")
    bootmenu: bool | None = value("bootmenu/@enable")
    bootmenu_timeout: int | None = value("bootmenu/@timeout")  # milliseconds
