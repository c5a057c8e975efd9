"""A resize that does not come to its end: the guest runs again as it did."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import pytest

from cowshed import clock
from cowshed.driver.steps import launch, marks, sending, transit
from cowshed.driver.steps.transit import Way
from cowshed.errors import (
    CowshedError,
    DeadlineExceeded,
    HostUnsuitable,
    InvalidRequest,
    InvalidState,
    SnapshotNotFound,
)
from cowshed.host import facts
from cowshed.model.flavor import Flavor
from cowshed.model.host import HostCapabilities
from cowshed.model.instance import Instance, PowerState
from cowshed.testing.clock import FakeClock
from tests.cold_moves import Running, Side


class Leaving(Running):
    """Runs, hears the power button, and goes off when it was waited for; ``deaf``: it never does.

    ``interrupt`` happens in the first wait, as ^C does.
    """

    def __init__(self, *, deaf: bool = False) -> None:
        super().__init__()
        self.deaf = deaf
        self.interrupt: Callable[[], None] = lambda: None

    def wait(self, state: Collection[PowerState], timeout: float | None, what: str) -> PowerState:
        interrupt, self.interrupt = self.interrupt, lambda: None
        interrupt()
        if self.power not in state:
            if self.deaf or not timeout:
                clock.current().sleep(timeout or 0)
                raise DeadlineExceeded(what=what, seconds=timeout)
            self.power = PowerState.SHUTDOWN
        return self.power


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Side:
    found = Side(tmp_path / "host-a")
    found.defined = True
    found.guest = Leaving()

    def relaunch(rooms: Any, instance: Instance, *_: Any) -> None:
        guest = of(found)
        if guest.power != PowerState.SHUTDOWN:
            raise InvalidState(name=instance.name, state="already running", action="started")
        guest.told.append("start")
        guest.power = PowerState.RUNNING

    monkeypatch.setattr(launch, "relaunch", relaunch)
    found.rooms.__dict__["capabilities"] = HostCapabilities(max_vcpus=288)
    return found


def of(side: Side) -> Leaving:
    assert isinstance(side.guest, Leaving)
    return side.guest


def interrupted() -> None:
    raise KeyboardInterrupt


def resize(side: Side, who: Instance, flavor: Flavor | None = None) -> None:
    side.driver.migrate_disk_and_power_off(
        None, who, "localhost", flavor or Flavor(vcpus=2, root=who.flavor.root), [], timeout=60, retry_interval=10
    )


def test_interrupted_while_it_goes_down_it_is_started_again(side: Side, caplog: pytest.LogCaptureFixture) -> None:
    """The button cannot be taken back: only when it is off can it be started."""
    who = side.web()
    of(side).interrupt = interrupted
    with caplog.at_level(logging.ERROR), pytest.raises(KeyboardInterrupt):
        resize(side, who)
    assert of(side).told == ["button", "button", "start"]
    assert not caplog.records
    assert transit.noted(side.rooms, who.uuid, Way.OUT) is None


def test_interrupted_when_it_does_not_go_down_it_is_ended_and_started_again(side: Side) -> None:
    """No later than it would have been ended without the interruption."""
    who = side.web()
    side.guest = Leaving(deaf=True)
    of(side).interrupt = interrupted
    with clock.using(FakeClock()) as now:
        begun = now.monotonic()
        with pytest.raises(KeyboardInterrupt):
            resize(side, who)
        assert now.monotonic() - begun <= 60
    assert of(side).told[0] == "button" and of(side).told[-2:] == ["hard", "start"]


def test_a_paused_guest_is_left_paused(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """It was not asked for anything."""
    who = side.web()
    of(side).power = PowerState.PAUSED
    monkeypatch.setattr(of(side), "destroy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        resize(side, who)
    assert of(side).power == PowerState.PAUSED and of(side).told == []


def test_what_cannot_be_taken_back_is_said_without_a_traceback(
    side: Side, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: Any) -> None:
        raise CowshedError(reason="the port is taken")

    monkeypatch.setattr(launch, "relaunch", fails)
    of(side).interrupt = interrupted
    with pytest.raises(KeyboardInterrupt):
        resize(side, side.web())
    said = [one for one in caplog.records if "start it as it was" in one.getMessage()]
    assert said and "the port is taken" in said[0].getMessage()
    assert not any(one.exc_info for one in caplog.records if one.levelno >= logging.WARNING)


@pytest.mark.parametrize(
    ("changes", "said"), [({"vcpus": 1000}, "1000 CPUs"), ({"memory": 1 << 50}, "of memory are more than the")]
)
def test_what_this_host_cannot_run_is_refused_before_it_is_stopped(
    side: Side, changes: dict[str, int], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(facts, "most_memory", lambda: 64 << 30)
    who = side.web()
    with pytest.raises(HostUnsuitable, match=said):
        resize(side, who, dataclasses.replace(who.flavor, **changes))
    assert of(side).told == []
    assert of(side).power == PowerState.RUNNING


@pytest.mark.parametrize(
    ("dest", "confirm"), [("", "keeps it so"), ("host-b", "if it came to host-b, leaves it there")]
)
def test_what_waits_for_its_end_says_how_it_ends(side: Side, dest: str, confirm: str) -> None:
    """As who finds it so after a command that was killed needs it: in what state it is, and both commands."""
    who = side.web()
    noted = {"dest": dest, "shared": False, "keys": [], "lines": []} if dest else {"here": True, "lines": []}
    transit.note(side.rooms, who.uuid, transit.Way.OUT, phase=transit.Phase.KEPT, **noted)
    refused = [lambda: resize(side, who), lambda: transit.refuse_kept(side.rooms, who, "rid of that")]
    refused += [lambda: marks.refuse_marked(side.rooms, who)] if dest else []
    for again in refused:
        with pytest.raises(
            InvalidState, match=f"{'moved to host-b' if dest else 'resized'}, and that was neither"
        ) as caught:
            again()
        assert confirm in str(caught.value.hint)
        assert f"cowshed resize {who.name} --confirm" in str(caught.value.hint) and "--revert" in str(caught.value.hint)
    assert of(side).power == PowerState.RUNNING


def test_a_host_that_ssh_would_take_for_an_option_is_refused(side: Side, tmp_path: Path) -> None:
    """Some of them run a program on this host."""
    made = tmp_path / "made"
    with (
        pytest.raises(InvalidRequest, match="no name of a host"),
        sending.channel(side.rooms, f"-oProxyCommand=touch {made}") as channel,
    ):
        channel.ask("meet", probe="x")
    assert not made.exists()


@pytest.mark.parametrize("backend", ["raw", "qcow2"])
def test_what_is_kept_for_a_revert_is_nobody_else_s(side: Side, backend: str) -> None:
    """Neither is a snapshot of the user's taken for it and removed, nor can what it goes back to be taken away."""
    who = side.web(backend)
    of(side).power = PowerState.SHUTDOWN
    with pytest.raises(InvalidRequest, match="resize"):
        side.driver.take_disk_snapshot(who, "before-resize")
    resize(side, who)
    with pytest.raises(InvalidState, match="resized"):
        side.driver.remove_disk_snapshot(who, "before-resize")
    with pytest.raises(InvalidState, match="resized"):
        side.driver.move_disk(who, "rbd")
    side.driver.confirm_migration(None, who, [])
    with pytest.raises(SnapshotNotFound):
        side.driver.remove_disk_snapshot(who, "before-resize")
    assert side.driver.move_disk(who, "rbd")
