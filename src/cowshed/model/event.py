"""Events: what happened to an instance without being asked."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from enum import IntEnum


class Transition(IntEnum):
    """The contract's codes (nova.virt.event)."""

    STARTED = 0
    STOPPED = 1
    PAUSED = 2
    RESUMED = 3
    SUSPENDED = 4
    POSTCOPY_STARTED = 5
    MIGRATION_COMPLETED = 6
    REBOOTED = 100
    CRASHED = 101
    IO_ERROR = 102


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened at ``timestamp`` (seconds since the epoch)."""

    timestamp: float = field(default_factory=time.time, kw_only=True)

    def get_timestamp(self) -> float:
        return self.timestamp


@dataclass(frozen=True, slots=True)
class LifecycleEvent(Event):
    """An instance changed its state. ``detail`` is libvirt's reason in a word, for people."""

    uuid: str
    transition: Transition
    detail: str = ""

    def get_instance_uuid(self) -> str:
        return self.uuid

    def get_transition(self) -> Transition:
        return self.transition

    def get_name(self) -> str:
        return self.transition.name.capitalize()
