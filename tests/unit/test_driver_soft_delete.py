"""An instance whose soft deletion fails is as it was, and can be started; one that is deleted softly is off. It is pretended."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pytest

from cowshed import clock
from cowshed.driver.steps import connect, locate, marks, opening
from cowshed.driver.steps.marks import Mark
from cowshed.errors import DataCorrupt, DeadlineExceeded, HypervisorError, InvalidState
from cowshed.model.instance import PowerState
from cowshed.testing.clock import FakeClock
from tests.cold_moves import Running, Side


class Guest(Running):
    """Goes off when it is ended hard."""

    stays = False

    def wait(self, state: Collection[PowerState], timeout: float | None, what: str) -> PowerState:
        if self.stays or self.power not in state:
            clock.current().sleep(timeout or 0)
            raise DeadlineExceeded(what=what, seconds=timeout)
        return self.power

    def set_autostart(self, wanted: bool) -> None:
        self.told.append("by hand only")


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
    with monkeypatch.context() as patch:
        breaks(side, patch)
        with pytest.raises(error):
            side.driver.soft_delete(who)
    marks.refuse_marked(side.rooms, who)
    side.driver.soft_delete(who)
    assert isinstance(side.guest, Guest)
    assert side.guest.power == PowerState.SHUTDOWN
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
