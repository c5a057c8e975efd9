"""The random number generator: guests boot without waiting for entropy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cowshed.domain.element import Element, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Rng(Element):
    """At most ``rate`` bytes in ``period`` milliseconds."""

    TAG: ClassVar[str] = "rng"

    model: str | None = value("@model")
    rate: int | None = value("rate/@bytes")
    period: int | None = value("rate/@period")
    backend: str | None = value("backend/@model")
    source: Path | None = value("backend")
