"""Events: what libvirt says of guests without being asked, heard once and told to everybody who waits."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from cowshed import clock, log
from cowshed.clock import Deadline
from cowshed.model.event import Transition

_log = log.logger(__name__)


class EventKind(StrEnum):
    LIFECYCLE = "lifecycle"
    REBOOT = "reboot"
    AGENT = "agent"
    IO_ERROR = "io-error"
    WATCHDOG = "watchdog"
    DEVICE_ADDED = "device-added"
    DEVICE_REMOVED = "device-removed"
    DEVICE_REMOVAL_FAILED = "device-removal-failed"
    BLOCK_JOB = "block-job"
    JOB_COMPLETED = "job-completed"


@dataclass(frozen=True, slots=True)
class GuestEvent:
    """``transition`` is set where the event changes the instance's state; ``detail`` says why in a word.

    ``data`` by kind: agent {state, reason}; device-* {alias}; block-job {disk, type, status};
    io-error {path, alias, action, reason}; job-completed: libvirt's parameters.
    """

    uuid: str
    kind: EventKind
    transition: Transition | None = None
    detail: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    timestamp: float = field(default_factory=time.time)


Listener = Callable[[GuestEvent], None]

# virDomainEventType -> (its details in libvirt's order, transition). Defined and undefined change no state.
_LIFECYCLE: Final[dict[int, tuple[tuple[str, ...], Transition | None]]] = {
    0: (("defined", "redefined", "renamed", "defined from snapshot"), None),
    1: (("undefined", "renamed"), None),
    2: (("booted", "migrated", "restored", "from snapshot", "woken up"), Transition.STARTED),
    3: (
        (
            "paused", "migrated", "I/O error", "watchdog", "restored", "from snapshot", "API error",
            "post-copy", "post-copy failed",
        ),
        Transition.PAUSED,
    ),
    4: (("unpaused", "migrated", "from snapshot", "post-copy", "post-copy failed"), Transition.RESUMED),
    5: (
        ("shut down", "destroyed", "crashed", "migrated", "saved", "failed", "from snapshot"),
        Transition.STOPPED,
    ),
    6: (("finished", "by the guest", "by the host"), None),
    7: (("to memory", "to disk"), Transition.SUSPENDED),
    8: (("panicked", "crash loaded"), Transition.CRASHED),
}  # fmt: skip
_SPECIAL: Final = {
    (3, 7): Transition.POSTCOPY_STARTED,
    (5, 3): Transition.MIGRATION_COMPLETED,
}


def lifecycle(uuid: str, event: int, detail: int) -> GuestEvent:
    """What libvirt's pair of numbers means (virDomainEventType and its detail)."""
    words, transition = _LIFECYCLE.get(event, ((), None))
    word = words[detail] if 0 <= detail < len(words) else f"event {event}/{detail}"
    return GuestEvent(uuid, EventKind.LIFECYCLE, _SPECIAL.get((event, detail), transition), word)


class Watch:
    """Remembers the events of one instance from its creation on, so that none is missed::

    with hypervisor.watch(uuid) as watch:
        guest.reboot()
        watch.wait(lambda event: event.kind == EventKind.REBOOT, timeout=60, what="web rebooted")
    """

    def __init__(self, hub: Hub, uuid: str) -> None:
        self._hub = hub
        self.uuid = uuid
        self.events: deque[GuestEvent] = deque(maxlen=1000)

    def wait(self, wanted: Callable[[GuestEvent], bool], *, timeout: float | None, what: str) -> GuestEvent:
        """The first event that is ``wanted``, also one that came already; earlier ones are dropped.

        :raises DeadlineExceeded: it did not come in time
        """
        deadline = Deadline(timeout, what)
        with self._hub.changed:
            while True:
                while self.events:
                    event = self.events.popleft()
                    if wanted(event):
                        return event
                deadline.check()
                clock.current().wait(self._hub.changed, deadline.remaining())

    def __enter__(self) -> Watch:
        self._hub.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._hub.remove(self)


class Hub:
    """Where the event thread puts events and everybody else waits. Its calls never block for long."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        self._counts: dict[str, int] = {}
        self._all = 0
        self._watches: list[Watch] = []
        self._listeners: list[Listener] = []
        self.note: Listener | None = None

    def put(self, event: GuestEvent) -> None:
        """Tell ``event`` to all; called on the event thread. A listener's error is logged."""
        if self.note:
            self.note(event)
        with self.changed:
            self._counts[event.uuid] = self._counts.get(event.uuid, 0) + 1
            for watch in self._watches:
                if watch.uuid == event.uuid:
                    watch.events.append(event)
            listeners = list(self._listeners)
            self.changed.notify_all()
        for listener in listeners:
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - a listener is somebody else's code
                _log.exception("a listener failed on %s of %s", event.kind, event.uuid)

    def wake(self) -> None:
        """The connection changed: everybody who waits looks again."""
        with self.changed:
            self._all += 1
            self.changed.notify_all()

    def count(self, uuid: str) -> int:
        """How much has happened to ``uuid``; compare two to know whether anything did."""
        with self.changed:
            return self._counts.get(uuid, 0) + self._all

    def wait_beyond(self, uuid: str, count: int, seconds: float) -> None:
        """Return as soon as more has happened than at ``count``, or after ``seconds``."""
        end = clock.current().monotonic() + seconds
        with self.changed:
            while self._counts.get(uuid, 0) + self._all == count:
                left = end - clock.current().monotonic()
                if left <= 0:
                    return
                clock.current().wait(self.changed, left)

    def add(self, watch: Watch) -> None:
        with self.changed:
            self._watches.append(watch)

    def remove(self, watch: Watch) -> None:
        with self.changed:
            if watch in self._watches:
                self._watches.remove(watch)

    def listen(self, listener: Listener) -> None:
        with self.changed:
            if listener not in self._listeners:
                self._listeners.append(listener)

    @property
    def listened(self) -> bool:
        return bool(self._listeners)
