"""A restart gives the guest the time that is said, then resets it. The guest is pretended."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

import pytest

from cowshed import clock
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import launch, placing
from cowshed.errors import ConfigError, DeadlineExceeded
from cowshed.model.instance import Ending, Instance, PowerState
from cowshed.testing.clock import FakeClock
from tests.cold_moves import Running, Side


class Deaf(Running):
    """Does not react to the power button."""

    def wait(self, state: Collection[PowerState], timeout: float | None, what: str) -> PowerState:
        if self.power not in state:
            clock.current().sleep(timeout or 0)
            raise DeadlineExceeded(what=what, seconds=timeout)
        return self.power


@pytest.fixture
def side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Side:
    found = Side(tmp_path / "host-a")
    found.defined, found.guest = True, Deaf()

    def relaunch(rooms: Any, instance: Instance, *_: Any) -> None:
        assert found.guest.power == PowerState.SHUTDOWN
        found.guest.power = PowerState.RUNNING

    monkeypatch.setattr(launch, "relaunch", relaunch)
    return found


@pytest.mark.parametrize(
    ("asked", "seconds", "told"),
    [
        (lambda driver, who: driver.restart(who, [], timeout=5), 5, ["button", "hard"]),
        (lambda driver, who: driver.restart(who, [], timeout=0), 0, ["hard"]),
        (lambda driver, who: driver.reboot(None, who, [], "SOFT"), 120, ["button", "hard"]),
        (lambda driver, who: driver.reboot(None, who, [], "HARD"), 0, ["hard"]),
    ],
)
def test_a_deaf_guest_is_reset_after_its_time(side: Side, asked: Any, seconds: float, told: list[str]) -> None:
    who = side.web()
    with clock.using(FakeClock()) as now:
        begun = now.monotonic()
        asked(side.driver, who)
        assert now.monotonic() - begun == seconds
    assert isinstance(side.guest, Deaf)
    assert side.guest.told == told
    assert side.guest.power == PowerState.RUNNING


@pytest.mark.parametrize(
    "asked",
    [
        lambda driver, who: driver.restart(who, [], timeout=5),
        lambda driver, who: driver.reboot(None, who, [], "HARD"),
        lambda driver, who: driver.unrescue(who, []),
    ],
    ids=["restart", "hard reboot", "unrescue"],
)
def test_a_guest_that_could_not_start_again_is_not_stopped(
    side: Side, monkeypatch: pytest.MonkeyPatch, asked: Any
) -> None:
    who = side.web()
    refused = ConfigError(source="[host] emulator", reason="/nowhere/qemu does not exist")

    def unusable(rooms: Rooms) -> Any:
        raise refused

    monkeypatch.setattr(Rooms, "capabilities", property(unusable))
    monkeypatch.setattr(placing, "rescued", lambda rooms, uuid: True)
    with pytest.raises(ConfigError) as caught:
        asked(side.driver, who)
    assert caught.value is refused
    assert isinstance(side.guest, Deaf)
    assert side.guest.told == []
    assert side.guest.power == PowerState.RUNNING


class Polite(Deaf):
    """Shuts down when it is asked."""

    def shutdown(self) -> None:
        super().shutdown()
        self.power = PowerState.SHUTDOWN


@pytest.mark.parametrize(
    ("guest", "timeout", "ending", "told"),
    [
        (Polite(), 30, Ending.SHUT_DOWN, ["button"]),
        (Polite(), 0, Ending.CUT_OFF, ["hard"]),
        (Deaf(), 25, Ending.CUT_OFF, ["button", "button", "button", "hard"]),
    ],
    ids=["asked", "not asked", "deaf"],
)
def test_who_ends_a_guest_says_how_it_ended(
    side: Side, guest: Deaf, timeout: float, ending: Ending, told: list[str]
) -> None:
    who = side.web()
    side.guest = guest
    with clock.using(FakeClock()):
        assert side.driver.switch_off(who, timeout=timeout, retry_interval=10) is ending
        assert guest.told == told
        assert side.driver.switch_off(who, timeout=timeout, retry_interval=10) is None, "it was off"
    assert guest.told == told
