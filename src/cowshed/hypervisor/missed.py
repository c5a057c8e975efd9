"""Which changes of state nobody told us, because libvirt was away when they happened."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final

from cowshed.hypervisor.events import EventKind, GuestEvent
from cowshed.model.event import Transition
from cowshed.model.instance import PowerState

DETAIL: Final = "libvirt was away"

_STATE_AFTER: Final = {
    Transition.STARTED: PowerState.RUNNING,
    Transition.RESUMED: PowerState.RUNNING,
    Transition.PAUSED: PowerState.PAUSED,
    Transition.STOPPED: PowerState.SHUTDOWN,
    Transition.MIGRATION_COMPLETED: PowerState.SHUTDOWN,
    Transition.CRASHED: PowerState.CRASHED,
    Transition.SUSPENDED: PowerState.SUSPENDED,
}
_HOW: Final = {
    PowerState.PAUSED: Transition.PAUSED,
    PowerState.SHUTDOWN: Transition.STOPPED,
    PowerState.CRASHED: Transition.CRASHED,
    PowerState.SUSPENDED: Transition.SUSPENDED,
}


class Memory:
    """The state each guest was last said to be in."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._states: dict[str, PowerState] = {}

    def learn(self, states: Mapping[str, PowerState]) -> None:
        with self._lock:
            self._states = dict(states)

    def note(self, event: GuestEvent) -> None:
        if event.transition is not None and (state := _STATE_AFTER.get(event.transition)) is not None:
            with self._lock:
                self._states[event.uuid] = state

    def missed(self, now: Mapping[str, PowerState]) -> list[GuestEvent]:
        """The events that lead from what we knew to ``now``, which is known afterwards."""
        with self._lock:
            before, self._states = self._states, dict(now)
        found = []
        for uuid in before.keys() | now.keys():
            old = before.get(uuid, PowerState.SHUTDOWN)
            new = now.get(uuid, PowerState.SHUTDOWN)
            if old != new and (transition := _between(old, new)) is not None:
                found.append(GuestEvent(uuid, EventKind.LIFECYCLE, transition, DETAIL))
        return found


def _between(old: PowerState, new: PowerState) -> Transition | None:
    if new == PowerState.RUNNING:
        return Transition.RESUMED if old in (PowerState.PAUSED, PowerState.SUSPENDED) else Transition.STARTED
    return _HOW.get(new)
