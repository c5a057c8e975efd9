"""The guest's clock and what keeps its time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from cowshed.domain.element import Element, children, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer(Element):
    """``<timer>``: one of its sources."""

    TAG: ClassVar[str] = "timer"

    name: str | None = value("@name")
    present: bool | None = value("@present")
    tickpolicy: str | None = value("@tickpolicy")


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock(Element):
    """``<clock>``: what the guest takes for the time."""

    TAG: ClassVar[str] = "clock"

    offset: str = value("@offset", "utc")
    timers: tuple[Timer, ...] = children()


def clock(*, windows: bool, kvm: bool, hpet: bool) -> Clock:
    """Ticks that were missed are caught up where the guest counts them (rtc) and dropped where it does
    not (pit); Windows keeps its hardware clock in local time and knows a clock of its own under KVM.
    """
    timers = [
        Timer(name="rtc", tickpolicy="catchup"),
        Timer(name="pit", tickpolicy="delay"),
        Timer(name="hpet", present=hpet),
    ]
    if windows and kvm:
        timers.append(Timer(name="hypervclock", present=True))
    return Clock(offset="localtime" if windows else "utc", timers=tuple(timers))
