"""A guest that goes on after it stood gets the right time, where an agent is there, and waits for nobody long. It is played."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed import clock
from cowshed.driver.steps import arriving, awaiting, right_time, settling
from cowshed.errors import CowshedError, DeadlineExceeded, HypervisorError, UnsupportedOperation
from cowshed.hypervisor import agent
from cowshed.model.instance import PowerState
from cowshed.testing.clock import FakeClock
from tests.unit.test_driver_provision import house

CHANNEL = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0' state='{}'/></channel>"
UUID = "11111111-2222-3333-4444-555555555555"


class Guest:
    """Its agent is there after so many looks; ``set`` says when its clock was set."""

    name, uuid = "web", UUID

    def __init__(self, looks: int | None = 0, power: PowerState = PowerState.RUNNING) -> None:
        self.looks, self.power = looks, power
        self.fails: CowshedError | None = None
        self.set: list[float] = []
        self.agent = SimpleNamespace(set_time=self.set_time)

    def state(self) -> PowerState:
        return self.power

    def resume(self) -> None:
        self.power = PowerState.RUNNING

    def wait(self, *_: Any, **__: Any) -> None:
        assert self.power == PowerState.RUNNING

    def xml(self) -> str:
        channel = ""
        if self.looks is not None:
            channel = CHANNEL.format("disconnected" if self.looks > 0 else "connected")
            self.looks -= 1
        return f"<domain type='qemu'><name>web</name><devices>{channel}</devices></domain>"

    def set_time(self) -> None:
        self.set.append(clock.current().time())
        if self.fails:
            raise self.fails


@pytest.mark.parametrize(
    ("guest", "sets", "waits"),
    [
        (Guest(), True, 0),
        (Guest(looks=5), True, 0.5),
        (Guest(looks=1000), False, right_time.CONNECTS + 0.1),
        (Guest(looks=None), False, 0),
        (Guest(power=PowerState.PAUSED), False, 0),
    ],
    ids=["there", "there soon", "never there", "no channel", "paused"],
)
def test_an_agent_is_waited_for_a_moment(guest: Any, sets: bool, waits: float) -> None:
    with clock.using(FakeClock()) as now:
        begun = now.monotonic()
        right_time.set_right(guest, patience=right_time.CONNECTS)
        assert now.monotonic() - begun <= waits
    assert bool(guest.set) == sets


def test_one_that_was_not_there_before_is_not_waited_for() -> None:
    guest: Any = Guest(looks=5)
    with clock.using(FakeClock()) as now:
        begun = now.monotonic()
        right_time.set_right(guest)
        assert now.monotonic() == begun
    assert not guest.set


@pytest.mark.parametrize(
    "error",
    [
        UnsupportedOperation(subject="web", operation="speak", reason="it is silent"),
        DeadlineExceeded(what="an answer", seconds=2),
        HypervisorError(action="set the clock of web", reason="hwclock failed", number=1),
    ],
)
def test_what_fails_is_logged(error: CowshedError, caplog: pytest.LogCaptureFixture) -> None:
    guest: Any = Guest()
    guest.fails = error
    with caplog.at_level("INFO"):
        right_time.set_right(guest)
    assert guest.set
    assert [(one.levelname, str(error) in one.message) for one in caplog.records] == [("INFO", True)]


@pytest.mark.parametrize("comes", [PowerState.RUNNING, PowerState.PAUSED])
def test_one_that_came_from_another_host_stood_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, comes: PowerState
) -> None:
    """All the time it was copied, where it was paused for that. One that its owner has paused stands still."""
    guest: Any = Guest(power=comes)
    monkeypatch.setattr(awaiting.filtering, "enforce", lambda *_: None)
    arriving.taken_over(house(tmp_path / "state"), guest)
    assert guest.power == comes
    assert bool(guest.set) == (comes == PowerState.RUNNING)


def test_one_that_did_not_leave_stood_as_long() -> None:
    guest: Any = Guest(power=PowerState.PAUSED)
    settling._resume(guest)
    assert guest.set


class Domain:
    """Of libvirt; ``said`` is what was asked of it."""

    def __init__(self, then: Callable[[], None] = lambda: None) -> None:
        self.said: list[Any] = []
        self.then = then

    def agentSetResponseTimeout(self, seconds: int, flags: int) -> None:
        self.said.append(seconds)

    def setTime(self, time: dict[str, int], flags: int = 0) -> None:
        self.said.append(time)
        self.then()


class Boom(Exception):
    pass


def test_the_time_that_is_set_is_that_of_the_call() -> None:
    """Whatever it comes to, the next call has the usual time for its answer."""

    def fails() -> None:
        raise Boom

    class Late(FakeClock):
        def time(self) -> float:
            return 1_700_000_000.25

    for domain in (Domain(), Domain(fails)):
        calling: Any = SimpleNamespace(call=lambda _, function, domain=domain: function(domain))
        with clock.using(Late()):
            if domain.then is fails:
                with pytest.raises(Boom):
                    agent.Agent(calling).set_time()
            else:
                agent.Agent(calling).set_time()
        assert domain.said == [
            agent.SETTING,
            {"seconds": 1_700_000_000, "nseconds": 250_000_000},
            agent.TIMEOUT,
        ]
