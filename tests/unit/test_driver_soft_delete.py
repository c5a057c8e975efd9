"""An instance whose soft deletion fails is as it was, and can be started; one that is deleted softly is off. It is pretended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from cowshed import clock
from cowshed.driver.steps import connect, launch, locate, marks, opening
from cowshed.driver.steps.marks import Mark
from cowshed.errors import DataCorrupt, DeadlineExceeded, HypervisorError, InvalidState
from cowshed.model.instance import PowerState
from cowshed.testing.clock import FakeClock
from tests.cold_moves import Running, Side


class Guest(Running):
    """Goes off when it is ended hard."""

    stays = False
    itself = False  # does libvirt start it with the host?

    def wait(self, state: Collection[PowerState], timeout: float | None, what: str) -> PowerState:
        if self.stays or self.power not in state:
            clock.current().sleep(timeout or 0)
            raise DeadlineExceeded(what=what, seconds=timeout)
        return self.power

    def autostart(self) -> bool:
        return self.itself

    def set_autostart(self, wanted: bool) -> None:
        self.told.append("by itself" if wanted else "by hand only")
        self.itself = wanted


@pytest.fixture(autouse=True)
def time() -> Iterator[None]:
    with clock.using(FakeClock()):
        yield


@pytest.fixture
def side(tmp_path: Path) -> Side:
    found = Side(tmp_path / "host-a")
    found.defined, found.guest = True, Guest()
    return found


def broken(*_: Any) -> Any:
    raise HypervisorError(action="do that", reason="broken for the test", number=1)


def corrupt(*_: Any) -> Any:
    raise DataCorrupt(path="the metadata", reason="broken for the test")


def stopped(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("breaks", "error"),
    [
        (lambda side, patch: patch.setattr(side.guest, "destroy", broken), HypervisorError),
        (lambda side, patch: patch.setattr(side.guest, "stays", True), DeadlineExceeded),
        (lambda side, patch: patch.setattr(side.guest, "set_autostart", broken), HypervisorError),
        (lambda side, patch: patch.setattr(locate, "remembered_vifs", corrupt), DataCorrupt),
        (lambda side, patch: patch.setattr(connect, "unplug", stopped), KeyboardInterrupt),
        (lambda side, patch: patch.setattr(opening, "let_go", stopped), KeyboardInterrupt),
    ],
    ids=["does not end", "ends too late", "autostart", "interfaces", "^C while unplugged", "^C while let go"],
)
def test_what_fails_leaves_an_instance_that_may_be_started_and_deleted(
    side: Side, monkeypatch: pytest.MonkeyPatch, breaks: Callable[[Side, pytest.MonkeyPatch], None], error: type
) -> None:
    who = side.web()
    assert isinstance(side.guest, Guest)
    side.guest.itself = True
    with monkeypatch.context() as patch:
        breaks(side, patch)
        with pytest.raises(error):
            side.driver.soft_delete(who)
    marks.refuse_marked(side.rooms, who)
    assert side.guest.itself
    side.driver.soft_delete(who)
    assert side.guest.power == PowerState.SHUTDOWN
    assert not side.guest.itself
    with pytest.raises(InvalidState, match="is deleted"):
        marks.refuse_marked(side.rooms, who)


def test_a_second_one_that_fails_does_not_undo_the_first(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its driver may have been killed when the guest was to go off."""
    who = side.web()
    marks.mark(side.rooms, who.uuid, Mark.SOFT_DELETED)
    monkeypatch.setattr(side.guest, "destroy", broken)
    with pytest.raises(HypervisorError):
        side.driver.soft_delete(who)
    with pytest.raises(InvalidState, match="is deleted"):
        marks.refuse_marked(side.rooms, who)


def test_one_whose_interfaces_are_not_known_is_not_stopped(side: Side, monkeypatch: pytest.MonkeyPatch) -> None:
    """It could not be restored."""
    monkeypatch.setattr(locate, "remembered_vifs", corrupt)
    with pytest.raises(DataCorrupt):
        side.driver.soft_delete(side.web())
    assert isinstance(side.guest, Guest)
    assert side.guest.told == []


# --- and restored ---------------------------------------------------------------------------------


@pytest.fixture
def guest(side: Side, monkeypatch: pytest.MonkeyPatch) -> Guest:
    """That of ``side``, and what starts it."""
    guest = side.guest
    assert isinstance(guest, Guest)
    monkeypatch.setattr(launch, "relaunch", lambda *_: setattr(guest, "power", PowerState.RUNNING))
    return guest


@pytest.mark.parametrize("itself", [True, False])
@pytest.mark.parametrize("times", [1, 2])
def test_it_starts_with_the_host_as_it_did_before(side: Side, guest: Guest, itself: bool, times: int) -> None:
    who = side.web()
    guest.itself = itself
    for _ in range(times):
        side.driver.soft_delete(who)
    assert not guest.itself
    side.driver.restore(who)
    assert (guest.power, guest.itself) == (PowerState.RUNNING, itself)
    assert marks.marks(side.rooms, who.uuid) == frozenset()


def test_it_may_be_restored_and_left_off(side: Side, guest: Guest) -> None:
    who = side.web()
    guest.itself = True
    side.driver.soft_delete(who)
    side.driver.undelete(who, power_on=False)
    assert (guest.power, guest.itself) == (PowerState.SHUTDOWN, True)
    marks.refuse_marked(side.rooms, who)


def test_what_cannot_be_restored_does_not_start_with_the_host(
    side: Side, guest: Guest, monkeypatch: pytest.MonkeyPatch
) -> None:
    who = side.web()
    guest.itself = True
    side.driver.soft_delete(who)
    with monkeypatch.context() as patch:
        patch.setattr(launch, "relaunch", broken)
        with pytest.raises(HypervisorError):
            side.driver.restore(who)
    assert not guest.itself
    with pytest.raises(InvalidState, match="is deleted"):
        marks.refuse_marked(side.rooms, who)
    side.driver.restore(who)
    assert guest.itself


def test_what_may_not_boot_does_not_start_with_the_host_until_it_may(side: Side, guest: Guest) -> None:
    who = side.web()
    guest.itself = True
    side.driver.set_bootable(who, False)
    side.driver.soft_delete(who)
    side.driver.set_bootable(who, True)
    assert not guest.itself, "it is deleted still"
    side.driver.restore(who)
    assert guest.itself
    side.driver.set_bootable(who, False)
    assert not guest.itself
    side.driver.set_bootable(who, True)
    assert guest.itself
