"""Interfaces that somebody else connects: what is listened for, when it is waited for, and what ends the wait."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import Config, HostSection, NetworkSection
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import network_events
from cowshed.errors import DeadlineExceeded, NetworkNotConnected
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif

THERE = Vif("there", "52:54:00:00:00:01")
COMING = Vif("coming", "52:54:00:00:00:02", active=False)
INSTANCE = Instance(uuid="0e1d2c3b-4a59-6877-8695-a4b3c2d1e0f9", name="web", flavor=Flavor())


class Waiter:
    """Notes when it is entered and left; ``ends`` is done in between, with the callback."""

    def __init__(self, ends: Callable[[Callable[[str, Any], bool]], object] = lambda callback: None) -> None:
        self.ends = ends
        self.seen: list[object] = []

    @contextmanager
    def wait_for_instance_event(
        self, instance: Any, events: Sequence[tuple[str, str]], *, timeout: float, error_callback: Any
    ) -> Iterator[None]:
        self.seen += [(instance.name, tuple(events), timeout), "listening"]
        yield
        self.seen.append("waiting")
        self.ends(error_callback)

    def update_compute_provider_status(self, context: Any, provider_uuid: str, *, enabled: bool) -> None:
        raise AssertionError


@pytest.fixture
def make(tmp_path: Path) -> Callable[..., Rooms]:
    def make(waiter: Waiter, **network: Any) -> Rooms:
        rooms = Rooms(Config(host=HostSection(state=str(tmp_path)), network=NetworkSection(**network)))
        rooms.waiter = waiter
        return rooms

    return make


def over(callback: object) -> None:
    raise TimeoutError


def test_it_listens_before_the_block_and_waits_after_it(make: Callable[..., Rooms]) -> None:
    waiter = Waiter()
    with network_events.awaited(make(waiter, connect_timeout=7), INSTANCE, [THERE, COMING]) as held:
        assert held
        waiter.seen.append("started")
    assert waiter.seen == [("web", (("network-vif-plugged", "coming"),), 7), "listening", "started", "waiting"]


@pytest.mark.parametrize(("vifs", "timeout"), [([THERE], 7), ([], 7), ([COMING], 0)])
def test_nothing_is_waited_for(make: Callable[..., Rooms], vifs: list[Vif], timeout: float) -> None:
    waiter = Waiter()
    with network_events.awaited(make(waiter, connect_timeout=timeout), INSTANCE, vifs) as held:
        assert not held
    assert waiter.seen == []


def test_nobody_says_that_it_is_connected(make: Callable[..., Rooms]) -> None:
    rooms = make(Waiter(over), connect_timeout=7)
    with (
        pytest.raises(DeadlineExceeded, match=f"for {COMING.address} of web did not happen within 7 s"),
        network_events.awaited(rooms, INSTANCE, [COMING]),
    ):
        pass


def test_it_is_said_to_have_failed(make: Callable[..., Rooms]) -> None:
    rooms = make(Waiter(lambda callback: callback("network-vif-plugged", INSTANCE)))
    with (
        pytest.raises(NetworkNotConnected, match="the network of web was not connected: network-vif-plugged"),
        network_events.awaited(rooms, INSTANCE, [COMING]),
    ):
        pass


@pytest.mark.parametrize("ends", [over, lambda callback: callback("network-vif-plugged", INSTANCE) or over(None)])
def test_it_starts_all_the_same_where_that_is_wanted(
    make: Callable[..., Rooms], caplog: pytest.LogCaptureFixture, ends: Callable[[Any], object]
) -> None:
    with network_events.awaited(make(Waiter(ends), connect_required=False), INSTANCE, [COMING]) as held:
        assert held
    assert "it starts all the same" in caplog.text


def test_what_goes_wrong_in_the_block_is_not_waited_for(make: Callable[..., Rooms]) -> None:
    waiter = Waiter()
    error = DeadlineExceeded(what="QEMU running", seconds=1)
    with pytest.raises(DeadlineExceeded) as caught, network_events.awaited(make(waiter), INSTANCE, [COMING]):
        raise error
    assert caught.value is error
    assert "waiting" not in waiter.seen
