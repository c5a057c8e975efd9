"""A controller, as libvirt names it; which ones a domain has is chosen in ``slots``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.element import Element, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Controller(Element):
    """``<controller>``: a bus that devices are at."""

    TAG: ClassVar[str] = "controller"

    type: str | None = value("@type")
    index: int | None = value("@index")
    model: str | None = value("@model")
    iothread: int | None = value("driver/@iothread")
