"""CPU limits from a flavor's extra specs (``quota:cpu_shares``, ``quota:cpu_period``, ``quota:cpu_quota``)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.element import Element, value
from cowshed.domain.properties import Properties
from cowshed.errors import UnsupportedOperation
from cowshed.model.host import HostCapabilities


@dataclass(frozen=True, slots=True, kw_only=True)
class Cputune(Element):
    """Of ``period`` microseconds each virtual CPU may run ``quota``; ``shares`` weigh guests against each other."""

    TAG: ClassVar[str] = "cputune"

    shares: int | None = value("shares")
    period: int | None = value("period")
    quota: int | None = value("quota")


def cputune(properties: Properties, host: HostCapabilities) -> Cputune | None:
    """libvirt's bounds; None where nothing is limited.

    :raises InvalidRequest: no number, or out of bounds
    :raises UnsupportedOperation: in session mode, which has no control groups
    """
    specs = Properties(image=properties.flavor)
    shares = specs.number("quota:cpu_shares", least=2, most=262144)
    period = specs.number("quota:cpu_period", least=1000, most=1000000)
    quota = specs.number("quota:cpu_quota", least=1000)
    if shares is None and period is None and quota is None:
        return None
    if host.session:
        raise UnsupportedOperation(
            subject="libvirt in session mode",
            operation="limit the CPU time of a guest",
            reason="that takes control groups, which only the system's libvirt may make",
            hint="use qemu:///system, or a flavor without quota:cpu_... extra specs",
        )
    return Cputune(shares=shares, period=period, quota=quota)
