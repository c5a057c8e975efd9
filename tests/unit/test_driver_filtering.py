"""Packet filters of many instances at once: what is asked, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed.driver.filters import Filters
from cowshed.driver.steps import filtering, nics
from cowshed.errors import HypervisorError, InstanceNotFound, ToolFailed
from cowshed.model.group import Direction, GroupRule, Member, SecurityGroup
from cowshed.model.instance import PowerState
from cowshed.model.vif import Vif, VifType
from cowshed.network import filters as network
from cowshed.network import ruleset

COUNT = 50


class Rules:
    def __init__(self) -> None:
        self.asked: list[str] = []

    def groups(self, _: object, vif: Vif) -> Sequence[SecurityGroup] | None:
        rules = (GroupRule(Direction.INGRESS, group="web"), GroupRule(Direction.INGRESS, "IPv6", group="web"))  # type: ignore[arg-type]
        return [SecurityGroup(name, name, rules) for name in vif.groups] or None

    def members(self, group: str) -> Sequence[Member]:
        self.asked.append(group)
        return [Member("52:54:00:00:00:01", ("10.0.0.1",))]


def test_a_group_is_refreshed_by_one_change_and_its_members_are_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    vifs = {
        f"guest-{number}": Vif(
            f"vif-{number}", f"52:54:00:00:01:{number:02x}", VifType.BRIDGE, "br0", groups=("web",) if number else ()
        )
        for number in range(COUNT)
    }
    monkeypatch.setattr(nics, "runs", lambda guest: guest.name != "guest-1")
    monkeypatch.setattr(nics, "recovered", lambda guest: SimpleNamespace(instance=None, vifs=[vifs[guest.name]]))
    monkeypatch.setattr(
        nics, "plugged", lambda guest: [SimpleNamespace(address=vifs[guest.name].address, target=f"tap-{guest.name}")]
    )
    monkeypatch.setattr("cowshed.network.device.is_tap", lambda _: True)
    ensured: list[list[Any]] = []
    rules = Rules()
    guests = [SimpleNamespace(name=name) for name in vifs]
    rooms: Any = SimpleNamespace(
        hypervisor=SimpleNamespace(guests=lambda: guests), rules=rules, filters=SimpleNamespace(ensure=ensured.append)
    )
    filtering.refresh(rooms, "web")
    (together,) = ensured
    assert [one.owner for one in together] == [f"vif-{number}" for number in range(2, COUNT)]
    assert rules.asked == ["web"]
    filtering.refresh(rooms, "another")
    assert ensured[1:] == [[]]


class Kernel:
    """Has no device ``missing``."""

    def __init__(self, missing: str) -> None:
        self.missing = missing
        self.in_force: list[str] = []

    def ensure(self, wanted: Sequence[Any]) -> None:
        if self.missing in [one.device for one in wanted]:
            raise ToolFailed(command="nft", status=1, output="No such device")
        self.in_force += [one.owner for one in wanted]


class Guest:
    def __init__(self, number: int) -> None:
        self.name = f"guest-{number}"
        self.vif = Vif(f"vif-{number}", f"52:54:00:00:01:{number:02x}", VifType.BRIDGE, "br0", groups=("web",))
        self.fails: Exception | None = None
        self.ended_meanwhile = False

    def ended(self) -> bool:
        if isinstance(self.fails, InstanceNotFound):
            raise self.fails
        return self.ended_meanwhile


def herd(monkeypatch: pytest.MonkeyPatch, kernel: Kernel) -> tuple[list[Guest], Any]:
    def recovered(guest: Guest) -> Any:
        if guest.fails:
            raise guest.fails
        return SimpleNamespace(instance=None, vifs=[guest.vif])

    monkeypatch.setattr(nics, "runs", lambda guest: True)
    monkeypatch.setattr(nics, "recovered", recovered)
    monkeypatch.setattr(
        nics, "plugged", lambda guest: [SimpleNamespace(address=guest.vif.address, target=f"tap-{guest.name}")]
    )
    monkeypatch.setattr("cowshed.network.device.is_tap", lambda _: True)
    guests = [Guest(number) for number in range(4)]
    rooms = SimpleNamespace(hypervisor=SimpleNamespace(guests=lambda: guests), rules=Rules(), filters=kernel)
    return guests, rooms


def test_a_guest_that_ends_meanwhile_keeps_nobody_from_the_new_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel("none")
    guests, rooms = herd(monkeypatch, kernel)
    guests[0].fails = InstanceNotFound(name="guest-0")
    guests[1].fails, guests[1].ended_meanwhile = HypervisorError(action="x", reason="no device", number=0), True
    filtering.refresh(rooms, "web")
    assert kernel.in_force == ["vif-2", "vif-3"]


def test_a_guest_that_cannot_be_filtered_is_an_error_and_the_others_are(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel("none")
    guests, rooms = herd(monkeypatch, kernel)
    guests[1].fails = HypervisorError(action="describe guest-1", reason="no", number=0)
    with pytest.raises(HypervisorError, match="guest-1"):
        filtering.refresh(rooms, "web")
    assert kernel.in_force == ["vif-0", "vif-2", "vif-3"]


def test_a_device_that_the_kernel_has_not_is_an_error_and_the_others_are_filtered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Kernel("tap-guest-2")
    _, rooms = herd(monkeypatch, kernel)
    with pytest.raises(ToolFailed):
        filtering.refresh(rooms, "web")
    assert kernel.in_force == ["vif-0", "vif-1", "vif-3"]


class Saving(Guest):
    """Its links and CPUs, in the order of what is done with them."""

    def __init__(self, number: int, state: PowerState) -> None:
        super().__init__(number)
        self.now = state
        self.done: list[str] = []
        self.refuses = False

    def state(self) -> PowerState:
        return self.now

    def suspend(self) -> None:
        self.now = PowerState.PAUSED
        self.done.append("stands")

    def resume(self) -> None:
        self.now = PowerState.RUNNING
        self.done.append("goes on")

    def save(self, *, running: bool = False) -> None:
        self.done.append("saved to run" if running else "saved")
        if self.refuses:
            raise HypervisorError(action="save", reason="no space", number=0)


@pytest.mark.parametrize("state", [PowerState.RUNNING, PowerState.PAUSED])
@pytest.mark.parametrize("refuses", [False, True])
def test_a_filtered_guest_is_saved_with_its_links_down(
    monkeypatch: pytest.MonkeyPatch, state: PowerState, refuses: bool
) -> None:
    _, rooms = herd(monkeypatch, Kernel("none"))
    guest = Saving(1, state)
    guest.refuses = refuses
    monkeypatch.setattr(nics, "plugged", lambda _: [SimpleNamespace(address=guest.vif.address.upper(), up=True)])
    monkeypatch.setattr(nics, "set_link", lambda _, address, up: guest.done.append("up" if up else "down"))
    ran = state == PowerState.RUNNING
    expected = ["stands", "down", "saved to run"] if ran else ["down", "saved"]
    if refuses:
        with pytest.raises(HypervisorError, match="no space"):
            filtering.save(rooms, guest)  # type: ignore[arg-type]
        expected += ["up", "goes on"] if ran else ["up"]
    else:
        filtering.save(rooms, guest)  # type: ignore[arg-type]
    assert guest.done == expected


def test_a_guest_that_is_not_filtered_is_saved_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    _, rooms = herd(monkeypatch, Kernel("none"))
    guest = Saving(1, PowerState.RUNNING)
    guest.vif = Vif("vif-1", "52:54:00:00:01:01", VifType.BRIDGE, "br0")
    monkeypatch.setattr(nics, "plugged", lambda _: [SimpleNamespace(address=guest.vif.address, up=True)])
    filtering.save(rooms, guest)  # type: ignore[arg-type]
    assert guest.done == ["saved"]


def test_a_pulled_cable_stays_so_when_the_groups_change(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Kernel("none")
    guests, rooms = herd(monkeypatch, kernel)
    links: list[Any] = []
    monkeypatch.setattr(
        nics, "plugged", lambda guest: [SimpleNamespace(address=guest.vif.address, target="t", up=False)]
    )
    monkeypatch.setattr(nics, "set_link", lambda *_, **words: links.append(words))
    monkeypatch.setattr(filtering, "hold_defined", lambda *_: None)
    monkeypatch.setattr(filtering, "remove_unused", lambda *_: None)
    rooms.hypervisor.find = lambda uuid: guests[1]
    driver = Filters()
    driver.rooms = rooms
    one: Any = SimpleNamespace(uuid="u", name="guest-1")
    driver.refresh_instance_security_rules(one)
    assert kernel.in_force == ["vif-1"]
    assert not links
    driver.ensure_filtering_rules_for_instance(one, [guests[1].vif])
    assert links == [{"up": True}]


def test_the_filter_of_a_guest_that_starts_during_a_sweep_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another command starts it after the running ones were looked for."""
    there = {ruleset.key("old"), ruleset.key("vif-0")}
    monkeypatch.setattr(network, "_all_keys", lambda: set(there))
    filters = network.Filters()
    removed: list[str] = []
    monkeypatch.setattr(filters, "_transact", removed.extend)
    guests, rooms = herd(monkeypatch, filters)  # type: ignore[arg-type]

    def running() -> list[Guest]:
        there.add(ruleset.key("vif-1"))
        return guests[:1]

    rooms.hypervisor.guests = running
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("cowshed.tools.run.find", lambda _: "/usr/sbin/nft")
    filtering.sweep(rooms)
    assert removed == [ruleset.key("old")]
