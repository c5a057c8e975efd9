"""Events: what each of libvirt's numbers means, who is told, and what is made of a time without libvirt."""

from __future__ import annotations

import threading
import time

import pytest

from cowshed.errors import DeadlineExceeded
from cowshed.hypervisor import EventKind, GuestEvent, events
from cowshed.hypervisor.events import Hub, Watch, lifecycle
from cowshed.hypervisor.missed import DETAIL, Memory
from cowshed.model.event import Transition
from cowshed.model.instance import PowerState

WEB, DB = "11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222"


def event(kind: EventKind = EventKind.REBOOT, uuid: str = WEB) -> GuestEvent:
    return GuestEvent(uuid, kind)


@pytest.mark.parametrize(
    ("name", "detail", "transition", "word"),
    [
        ("DEFINED", "DEFINED_ADDED", None, "defined"),
        ("UNDEFINED", "UNDEFINED_REMOVED", None, "undefined"),
        ("STARTED", "STARTED_BOOTED", Transition.STARTED, "booted"),
        ("STARTED", "STARTED_RESTORED", Transition.STARTED, "restored"),
        ("SUSPENDED", "SUSPENDED_PAUSED", Transition.PAUSED, "paused"),
        ("SUSPENDED", "SUSPENDED_IOERROR", Transition.PAUSED, "I/O error"),
        ("SUSPENDED", "SUSPENDED_POSTCOPY", Transition.POSTCOPY_STARTED, "post-copy"),
        ("RESUMED", "RESUMED_UNPAUSED", Transition.RESUMED, "unpaused"),
        ("STOPPED", "STOPPED_SHUTDOWN", Transition.STOPPED, "shut down"),
        ("STOPPED", "STOPPED_DESTROYED", Transition.STOPPED, "destroyed"),
        ("STOPPED", "STOPPED_CRASHED", Transition.STOPPED, "crashed"),
        ("STOPPED", "STOPPED_SAVED", Transition.STOPPED, "saved"),
        ("STOPPED", "STOPPED_MIGRATED", Transition.MIGRATION_COMPLETED, "migrated"),
        ("SHUTDOWN", "SHUTDOWN_GUEST", None, "by the guest"),
        ("PMSUSPENDED", "PMSUSPENDED_MEMORY", Transition.SUSPENDED, "to memory"),
        ("CRASHED", "CRASHED_PANICKED", Transition.CRASHED, "panicked"),
    ],
)
def test_lifecycle(name: str, detail: str, transition: Transition | None, word: str) -> None:
    libvirt = pytest.importorskip("libvirt", reason="the libvirt binding is not installed")
    numbers = (getattr(libvirt, f"VIR_DOMAIN_EVENT_{name}"), getattr(libvirt, f"VIR_DOMAIN_EVENT_{detail}"))
    made = lifecycle(WEB, *numbers)
    assert (made.kind, made.transition, made.detail) == (EventKind.LIFECYCLE, transition, word)


def test_numbers_of_a_newer_libvirt_do_no_harm() -> None:
    assert lifecycle(WEB, 2, 99).transition == Transition.STARTED
    assert lifecycle(WEB, 99, 0).transition is None


def test_a_watch_misses_nothing_and_hears_only_its_instance() -> None:
    hub = Hub()
    with Watch(hub, WEB) as watch:
        hub.put(event(uuid=DB))
        hub.put(event(EventKind.AGENT))
        hub.put(event(EventKind.REBOOT))
        found = watch.wait(lambda heard: heard.kind == EventKind.REBOOT, timeout=1, what="reboot")
        assert found.uuid == WEB
        with pytest.raises(DeadlineExceeded, match=r"reboot did not happen within 0\.05 s"):
            watch.wait(lambda heard: True, timeout=0.05, what="reboot")
    hub.put(event())
    assert not watch.events


def test_a_watch_is_woken_at_once() -> None:
    hub = Hub()
    with Watch(hub, WEB) as watch:
        threading.Timer(0.05, hub.put, [event()]).start()
        begin = time.monotonic()
        watch.wait(lambda heard: True, timeout=5, what="an event")
        assert time.monotonic() - begin < 1


def test_counting() -> None:
    hub = Hub()
    seen = hub.count(WEB)
    hub.put(event(uuid=DB))
    begin = time.monotonic()
    hub.wait_beyond(WEB, seen, 0.05)  # nothing happened to it
    assert time.monotonic() - begin >= 0.05
    hub.put(event())
    hub.wait_beyond(WEB, seen, 5)
    seen = hub.count(WEB)
    hub.wake()
    hub.wait_beyond(WEB, seen, 5)
    assert time.monotonic() - begin < 2


def test_a_listener_that_fails_hurts_nobody(caplog: pytest.LogCaptureFixture) -> None:
    hub, heard = Hub(), []

    def broken(told: GuestEvent) -> None:
        raise ValueError("mine")

    hub.listen(broken)
    hub.listen(heard.append)
    hub.listen(heard.append)  # once is enough
    with caplog.at_level("ERROR", logger=events.__name__):
        hub.put(event())
    assert len(heard) == 1
    assert "mine" in caplog.text


@pytest.mark.parametrize(
    ("before", "after", "transition"),
    [
        (PowerState.RUNNING, PowerState.SHUTDOWN, Transition.STOPPED),
        (PowerState.RUNNING, PowerState.CRASHED, Transition.CRASHED),
        (PowerState.RUNNING, PowerState.PAUSED, Transition.PAUSED),
        (PowerState.PAUSED, PowerState.RUNNING, Transition.RESUMED),
        (PowerState.SHUTDOWN, PowerState.RUNNING, Transition.STARTED),
        (PowerState.RUNNING, PowerState.SUSPENDED, Transition.SUSPENDED),
    ],
)
def test_what_was_missed(before: PowerState, after: PowerState, transition: Transition) -> None:
    memory = Memory()
    memory.learn({WEB: before, DB: PowerState.RUNNING})
    missed = memory.missed({WEB: after, DB: PowerState.RUNNING})
    assert [(e.uuid, e.transition, e.detail) for e in missed] == [(WEB, transition, DETAIL)]
    assert memory.missed({WEB: after, DB: PowerState.RUNNING}) == []


def test_a_running_guest_that_is_gone_has_stopped() -> None:
    memory = Memory()
    memory.note(GuestEvent(WEB, EventKind.LIFECYCLE, Transition.STARTED))
    memory.note(GuestEvent(DB, EventKind.LIFECYCLE, None, "defined"))
    assert [e.transition for e in memory.missed({})] == [Transition.STOPPED]
