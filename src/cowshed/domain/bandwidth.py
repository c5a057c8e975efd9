"""Network limits from a flavor's extra specs (``quota:vif_inbound_average`` and so on)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.element import Element, value
from cowshed.domain.properties import Properties
from cowshed.errors import InvalidRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Bandwidth(Element):
    """``average`` and ``peak`` in KiB per second, ``burst`` in KiB; inbound is what the guest receives."""

    TAG: ClassVar[str] = "bandwidth"

    inbound_average: int | None = value("inbound/@average")
    inbound_peak: int | None = value("inbound/@peak")
    inbound_burst: int | None = value("inbound/@burst")
    outbound_average: int | None = value("outbound/@average")
    outbound_peak: int | None = value("outbound/@peak")
    outbound_burst: int | None = value("outbound/@burst")


def bandwidth(properties: Properties) -> Bandwidth | None:
    """None where nothing is limited.

    :raises InvalidRequest: no number, or a peak or burst without an average
    """
    specs = Properties(image=properties.flavor)
    values = {
        f"{way}_{kind}": specs.number(f"quota:vif_{way}_{kind}", least=1)
        for way in ("inbound", "outbound")
        for kind in ("average", "peak", "burst")
    }
    for way in ("inbound", "outbound"):
        if values[f"{way}_average"] is None and (values[f"{way}_peak"] or values[f"{way}_burst"]):
            raise InvalidRequest(reason=f"quota:vif_{way}_peak and _burst need quota:vif_{way}_average")
    return Bandwidth(**values) if any(values.values()) else None
