"""The processor the guest sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.element import Element, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Cpu(Element):
    """``<cpu>``: model, features, topology."""

    TAG: ClassVar[str] = "cpu"

    mode: str | None = value("@mode")
    match: str | None = value("@match")
    check: str | None = value("@check")
    model: str | None = value("model")
    fallback: str | None = value("model/@fallback")
    sockets: int | None = value("topology/@sockets")
    cores: int | None = value("topology/@cores")
    threads: int | None = value("topology/@threads")
