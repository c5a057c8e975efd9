"""A guest with packet filters that comes from another host: it is filtered before it runs here.

Its devices are there as soon as libvirt has started the QEMU that takes it in; that is heard, and they are filtered while
its memory still comes. It arrives paused, whatever that came to, and goes on when the filters are seen to be in force:
at once where the process that prepared lives, else with the next call that looks after it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from cowshed import clock, log
from cowshed.driver.steps import filtering, locate, transit
from cowshed.driver.steps.transit import Way
from cowshed.errors import CowshedError, DeadlineExceeded, InstanceNotFound
from cowshed.hypervisor.events import EventKind
from cowshed.model.event import Transition
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.events import GuestEvent, Watch
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

_LOOK: Final = 0.5  # seconds between two looks at whether nobody waits any more
_SETTLES: Final = 30.0  # seconds from its last event until libvirt says that it is wholly here
_PAUSE: Final = 0.05


def held(rooms: Rooms, instance: Instance, vifs: Sequence[Vif], found: dict[str, Any]) -> bool:
    """Shall it arrive paused? Not where it is paused at the source, too: then it stays so."""
    return bool(found.get("ran")) and filtering.any_of(rooms, instance, vifs)


def arrived(rooms: Rooms, uuid: str) -> Guest | None:
    """The guest, once it is wholly this host's: defined here, and nothing is coming in any more."""
    from cowshed.hypervisor import migrate

    guest = rooms.hypervisor.find(uuid)
    if guest is None or not guest.persistent() or migrate.running(guest) is not None:
        return None
    return guest


def complete(rooms: Rooms, guest: Guest) -> None:
    """Its filters, and then it runs, if it is paused for them. May be repeated.

    :raises CowshedError: they are not in force; it stays paused
    """
    filtering.enforce(rooms, guest)
    note = transit.noted(rooms, guest.uuid, Way.IN) or {}
    if note.get("held") and guest.state() == PowerState.PAUSED:
        guest.resume()
        guest.wait(PowerState.RUNNING, timeout=rooms.config.power.start_timeout, what=f"{guest.name} running")


@contextmanager
def awaited(rooms: Rooms, uuid: str) -> Iterator[None]:
    """In this block, on a thread of its own, what is said above. What fails is logged: who takes it over says it."""
    over = threading.Event()
    with rooms.hypervisor.watch(uuid) as watch:
        thread = threading.Thread(
            target=_await, args=(rooms, uuid, watch, over), name=f"cowshed-await-{uuid}", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def _await(rooms: Rooms, uuid: str, watch: Watch, over: threading.Event) -> None:
    while not over.is_set():
        try:
            event = watch.wait(_concerns, timeout=_LOOK, what="an event")
        except DeadlineExceeded:
            continue
        try:
            if event.transition == Transition.STARTED:
                filtering.enforce(rooms, rooms.hypervisor.guest(uuid))
            else:
                _take_over(rooms, uuid, over)
        except InstanceNotFound:
            continue
        except CowshedError as error:
            _log.warning("the filters of %s are not in force yet: %s", locate.name(rooms, uuid), error)


def _concerns(event: GuestEvent) -> bool:
    return event.kind == EventKind.LIFECYCLE and event.transition in (Transition.STARTED, Transition.PAUSED)


def _take_over(rooms: Rooms, uuid: str, over: threading.Event) -> None:
    deadline = clock.Deadline(_SETTLES, f"the arrival of {uuid}")
    while not over.is_set() and not deadline.passed:
        if guest := arrived(rooms, uuid):
            return complete(rooms, guest)
        clock.current().sleep(_PAUSE)
