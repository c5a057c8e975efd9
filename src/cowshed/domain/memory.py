"""Where the guest's memory comes from: shared with another process where one serves its directories."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from cowshed.domain.element import Element, value


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryBacking(Element):
    """``<memoryBacking>``: what the guest's memory is made of on the host."""

    TAG: ClassVar[str] = "memoryBacking"

    source: str | None = value("source/@type")
    access: str | None = value("access/@mode")

    @property
    def shared(self) -> bool:
        return self.access == "shared"


SHARED: Final = MemoryBacking(source="memfd", access="shared")
