"""Taking a device from a guest: what each answer of libvirt and of the guest leads to."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed import clock
from cowshed.config import VolumesSection
from cowshed.driver.steps import devices
from cowshed.errors import DeadlineExceeded, HypervisorError, InvalidState
from cowshed.hypervisor import devices as devices_module
from cowshed.hypervisor.devices import Devices
from cowshed.hypervisor.events import EventKind, GuestEvent, Hub, Watch
from cowshed.model.instance import PowerState
from cowshed.testing.clock import FakeClock

UUID = "u"


class Device:
    alias = "ua-v"

    def to_xml(self) -> str:
        return "<disk/>"


class Guest:
    """A domain whose device is in ``places``; ``answers`` are what happens at each request."""

    def __init__(self, *answers: Callable[[Guest], None]) -> None:
        self.name = "web"
        self.hub = Hub()
        self.places = {"live", "config"}
        self.answers = list(answers)
        self.requests = 0
        self.active = True
        self.asked: list[float] = []  # when, in seconds
        self.power = PowerState.RUNNING

    def state(self) -> PowerState:
        return self.power

    def patiently(self, read: Callable[[], Any], deadline: Any) -> Any:
        return read()

    def persistent(self) -> bool:
        return True

    def xml(self, *, inactive: bool = False) -> str:
        return "config" if inactive else "live"

    def watch(self) -> Watch:
        return Watch(self.hub, UUID)

    def call(self, action: str, function: Callable[[Any], Any], *, repeat: bool = False) -> Any:
        return function(self)

    # --- virDomain

    def isActive(self) -> bool:
        return self.active

    def isPersistent(self) -> bool:
        return True

    def detachDeviceAlias(self, alias: str, flags: int) -> None:
        assert (alias, flags) == ("ua-v", devices_module.LIVE)
        self.requests += 1
        self.asked.append(clock.current().monotonic())
        if self.answers:
            self.answers.pop(0)(self)

    def detachDeviceFlags(self, xml: str, flags: int) -> None:
        assert flags == devices_module.CONFIG
        self.places.discard("config")

    def tell(self, kind: EventKind, alias: str = "ua-v") -> None:
        self.hub.put(GuestEvent(UUID, kind, None, alias, {"alias": alias}))


def lets_go(guest: Guest) -> None:
    guest.places.discard("live")
    guest.tell(EventKind.DEVICE_REMOVED)


def lets_go_unheard(guest: Guest) -> None:
    guest.places.discard("live")


def refuses(guest: Guest) -> None:
    guest.tell(EventKind.DEVICE_REMOVED, "ua-other")
    guest.tell(EventKind.DEVICE_REMOVAL_FAILED)


def ignores(guest: Guest) -> None:
    pass


def still_at_it(guest: Guest) -> None:
    guest.places.discard("live")
    raise HypervisorError(action="detach", reason="Device ua-v is already in the process of unplug", number=1)


def blinks(guest: Guest) -> None:
    guest.places.discard("live")
    raise HypervisorError(
        action="detach", reason="Hot-unplug failed: guest is busy (power indicator blinking)", number=1
    )


def breaks(guest: Guest) -> None:
    raise HypervisorError(action="detach", reason="no idea", number=1)


def powers_off(guest: Guest) -> None:
    guest.active = False
    raise InvalidState(name="web", state="off", action="asked")


def detach(guest: Guest, attempts: int = 3) -> bool:
    def find(xml: str) -> Device | None:
        return Device() if xml in guest.places else None

    return Devices(guest).detach(find, timeout=10, attempts=attempts, what="vdb")  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def turned() -> Iterator[FakeClock]:
    with clock.using(FakeClock()) as made:
        yield made


@pytest.mark.parametrize(
    ("answers", "requests"),
    [
        ([lets_go], 1),
        ([lets_go_unheard], 1),
        ([refuses, lets_go], 2),
        ([ignores, lets_go], 2),
        ([ignores, still_at_it], 2),
        ([ignores, blinks], 2),
        ([powers_off], 1),
    ],
)
def test_the_guest_lets_go_in_the_end(answers: list[Any], requests: int) -> None:
    guest = Guest(*answers)
    assert detach(guest)
    assert "config" not in guest.places
    assert guest.requests == requests


def test_a_guest_that_never_lets_go_keeps_it_in_both() -> None:
    guest = Guest()
    with pytest.raises(DeadlineExceeded) as caught:
        detach(guest)
    assert guest.places == {"live", "config"}
    assert "within 30 s" in str(caught.value)


def test_a_guest_that_was_not_ready_is_asked_again_soon(turned: FakeClock) -> None:
    """One that boots drops the first request; 10 seconds, the time it has for an answer, would be long for that."""
    guest = Guest()
    with pytest.raises(DeadlineExceeded):
        detach(guest)
    assert guest.asked == [0, 2, 6, 10, 20]
    assert turned.monotonic() == pytest.approx(30)


def test_a_guest_that_refuses_is_not_asked_for_ever() -> None:
    guest = Guest(*[refuses] * 5)
    with pytest.raises(DeadlineExceeded):
        detach(guest)
    assert guest.requests == 5
    assert guest.places == {"live", "config"}


def test_a_paused_guest_is_given_up_after_one_time() -> None:
    """It cannot answer, and who waits for it may hold what its resumption needs."""
    guest = Guest()
    guest.power = PowerState.PAUSED
    with pytest.raises(DeadlineExceeded) as caught:
        detach(guest)
    assert guest.asked == [0, 2, 6]
    assert "within 10 s" in str(caught.value)
    assert "it is paused" in str(caught.value.hint)
    assert "cowshed resume web" in str(caught.value.hint)


def test_an_error_that_is_none_of_these_goes_up() -> None:
    guest = Guest(breaks)
    with pytest.raises(HypervisorError):
        detach(guest)
    assert guest.places == {"live", "config"}


def test_what_is_not_there_is_not_asked_for() -> None:
    guest = Guest()
    guest.places = set()
    assert not detach(guest)
    guest.places = {"config"}
    assert detach(guest)
    assert guest.requests == 0


@pytest.mark.parametrize(
    ("wait", "each", "attempts"), [(None, 20, 8), (5, 5, 1), (20, 20, 1), (30, 15, 2), (160, 20, 8), (0, 0, 1)]
)
def test_the_guest_has_just_the_time_that_is_given(wait: float | None, each: float, attempts: int) -> None:
    rooms: Any = SimpleNamespace(config=SimpleNamespace(volumes=VolumesSection()))
    assert devices.patience(rooms, wait) == (each, attempts)
