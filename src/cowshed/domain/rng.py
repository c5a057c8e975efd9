"""The random number generator: guests boot without waiting for entropy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from cowshed.config import GuestSection
from cowshed.domain.element import Element, value
from cowshed.domain.properties import Properties
from cowshed.errors import UnsupportedOperation
from cowshed.model.host import HostCapabilities

PERIOD: Final = 1000  # milliseconds, where the flavor limits the bytes but does not say in which time


@dataclass(frozen=True, slots=True, kw_only=True)
class Rng(Element):
    """At most ``rate`` bytes in ``period`` milliseconds."""

    TAG: ClassVar[str] = "rng"

    model: str | None = value("@model")
    rate: int | None = value("rate/@bytes")
    period: int | None = value("rate/@period")
    backend: str | None = value("backend/@model")
    source: Path | None = value("backend")


def rngs(properties: Properties, guest: GuestSection, host: HostCapabilities) -> tuple[Rng, ...]:
    """One, unless the flavor forbids it, or neither image nor configuration wants it.

    :raises UnsupportedOperation: this QEMU lacks the model
    """
    asked = properties.text("hw_rng_model")
    limits = Properties(image=properties.flavor)
    if limits.flag("hw_rng:allowed") is False or not (asked or guest.rng):
        return ()
    model = asked or "virtio"
    if host.rng_models and model not in host.rng_models:
        raise UnsupportedOperation(
            subject="QEMU on this host",
            operation=f"make a {model} random number generator",
            reason=f"it has {', '.join(host.rng_models)}",
        )
    rate, period = limits.number("hw_rng:rate_bytes", least=1), limits.number("hw_rng:rate_period", least=1)
    return (
        Rng(
            model=model,
            rate=rate,
            period=(period or PERIOD) if rate else None,
            backend="random",
            source=Path("/dev/urandom"),
        ),
    )
