"""Packet filters of many instances at once: what is asked, and how often."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed.driver.filters import Filters
from cowshed.driver.steps import filter_order, filtering, nics
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


def test_a_group_is_refreshed_by_one_change_and_its_members_are_asked_for_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
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
        hypervisor=SimpleNamespace(guests=lambda: guests),
        rules=rules,
        filters=SimpleNamespace(ensure=ensured.append),
        state=tmp_path,
    )
    filtering.refresh(rooms, "web")
    (together,) = ensured
    assert [one.owner for one in together] == [f"vif-{number}" for number in range(2, COUNT)]
    assert rules.asked == ["web"]
    filtering.refresh(rooms, "another")
    assert ensured[1:] == []


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


def herd(monkeypatch: pytest.MonkeyPatch, state: Path, kernel: Kernel) -> tuple[list[Guest], Any]:
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
    rooms = SimpleNamespace(
        hypervisor=SimpleNamespace(guests=lambda: guests), rules=Rules(), filters=kernel, state=state
    )
    return guests, rooms


def test_a_guest_that_ends_meanwhile_keeps_nobody_from_the_new_rules(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel = Kernel("none")
    guests, rooms = herd(monkeypatch, tmp_path, kernel)
    guests[0].fails = InstanceNotFound(name="guest-0")
    guests[1].fails, guests[1].ended_meanwhile = HypervisorError(action="x", reason="no device", number=0), True
    filtering.refresh(rooms, "web")
    assert kernel.in_force == ["vif-2", "vif-3"]


def test_a_guest_that_cannot_be_filtered_is_an_error_and_the_others_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kernel = Kernel("none")
    guests, rooms = herd(monkeypatch, tmp_path, kernel)
    guests[1].fails = HypervisorError(action="describe guest-1", reason="no", number=0)
    with pytest.raises(HypervisorError, match="guest-1"):
        filtering.refresh(rooms, "web")
    assert kernel.in_force == ["vif-0", "vif-2", "vif-3"]


def test_a_device_that_the_kernel_has_not_is_an_error_and_the_others_are_filtered(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    kernel = Kernel("tap-guest-2")
    _, rooms = herd(monkeypatch, tmp_path, kernel)
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
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, state: PowerState, refuses: bool
) -> None:
    _, rooms = herd(monkeypatch, tmp_path, Kernel("none"))
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


def test_a_guest_that_is_not_filtered_is_saved_as_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    _, rooms = herd(monkeypatch, tmp_path, Kernel("none"))
    guest = Saving(1, PowerState.RUNNING)
    guest.vif = Vif("vif-1", "52:54:00:00:01:01", VifType.BRIDGE, "br0")
    monkeypatch.setattr(nics, "plugged", lambda _: [SimpleNamespace(address=guest.vif.address, up=True)])
    filtering.save(rooms, guest)  # type: ignore[arg-type]
    assert guest.done == ["saved"]


def test_a_pulled_cable_stays_so_when_the_groups_change(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kernel = Kernel("none")
    guests, rooms = herd(monkeypatch, tmp_path, kernel)
    links: list[Any] = []
    monkeypatch.setattr(
        nics, "plugged", lambda guest: [SimpleNamespace(address=guest.vif.address, target="t", up=False)]
    )
    monkeypatch.setattr(nics, "set_link", lambda *_, **words: links.append(words))
    monkeypatch.setattr(filtering, "hold_defined", lambda *_: None)
    monkeypatch.setattr(filtering, "_remove_unused", lambda *_: None)
    rooms.hypervisor.find = lambda uuid: guests[1]
    driver = Filters()
    driver.rooms = rooms
    one: Any = SimpleNamespace(uuid="u", name="guest-1")
    driver.refresh_instance_security_rules(one)
    assert kernel.in_force == ["vif-1"]
    assert not links
    driver.ensure_filtering_rules_for_instance(one, [guests[1].vif])
    assert links == [{"up": True}]


def test_the_filter_of_a_guest_that_starts_during_a_sweep_stays(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Another command starts it after the running ones were looked for."""
    there = {ruleset.key("old"), ruleset.key("vif-0")}
    monkeypatch.setattr(network, "_all_keys", lambda: set(there))
    filters = network.Filters()
    removed: list[str] = []
    monkeypatch.setattr(filters, "_transact", removed.extend)
    guests, rooms = herd(monkeypatch, tmp_path, filters)  # type: ignore[arg-type]

    def running() -> list[Guest]:
        there.add(ruleset.key("vif-1"))
        return guests[:1]

    rooms.hypervisor.guests = running
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("cowshed.tools.run.find", lambda _: "/usr/sbin/nft")
    filtering.sweep(rooms)
    assert removed == [ruleset.key("old")]


# --- several at once ------------------------------------------------------------------------------


class Changing(Rules):
    """Groups of one rule, whose port is what they are now."""

    port = 1

    def groups(self, _: object, vif: Vif) -> Sequence[SecurityGroup] | None:
        rule = GroupRule(Direction.INGRESS, protocol="tcp", port_min=self.port, port_max=self.port)
        return [SecurityGroup(name, name, (rule,)) for name in vif.groups] or None


class Late:
    """A kernel. The first who comes to it comes ``after`` something."""

    def __init__(self, after: Callable[[], None]) -> None:
        self.after: Callable[[], None] | None = after
        self.ports: dict[str, int | None] = {}
        self.gone: list[str] = []

    def ensure(self, wanted: Sequence[Any]) -> None:
        after, self.after = self.after, None
        if after:
            after()
        self.ports |= {one.owner: one.rules[0].port_min for one in wanted}

    def remove(self, owners: Sequence[str]) -> None:
        self.gone += owners
        for owner in owners:
            self.ports.pop(owner, None)


def in_two(monkeypatch: pytest.MonkeyPatch, state: Path, change: Callable[[Any], None], between: str) -> Late:
    """While one process has planned a refresh of the group and is about to put it in force, another one makes ``change``.

    :param between: ``plan``: before it comes to the lock; ``apply``: when it has come to the kernel
    """
    over = threading.Event()

    def other() -> None:
        change(rooms)
        over.set()

    thread = threading.Thread(target=other)

    def meanwhile() -> None:
        thread.start()
        over.wait(0.5 if between == "apply" else 10)  # who waits for us is not waited for

    kernel = Late(meanwhile if between == "apply" else lambda: None)
    _, rooms = herd(monkeypatch, state, kernel)  # type: ignore[arg-type]
    rooms.rules = Changing()
    if between == "plan":
        held, began = filter_order._held, []

        def late(rooms: Any) -> Any:
            if not began:
                began.append(True)
                meanwhile()
            return held(rooms)

        monkeypatch.setattr(filter_order, "_held", late)
    filtering.refresh(rooms, "web")
    thread.join(10)
    assert over.is_set()
    return kernel


@pytest.mark.parametrize("between", ["plan", "apply"])
def test_an_older_plan_is_not_put_in_force_after_a_newer_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, between: str
) -> None:
    def change(rooms: Any) -> None:
        rooms.rules.port = 2
        filtering.refresh(rooms, "web")

    kernel = in_two(monkeypatch, tmp_path, change, between)
    assert kernel.ports == {f"vif-{number}": 2 for number in range(4)}


@pytest.mark.parametrize("between", ["plan", "apply"])
def test_an_interface_that_is_gone_is_not_filtered_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, between: str
) -> None:
    def change(rooms: Any) -> None:
        gone = rooms.hypervisor.guests().pop()
        filtering.remove(rooms, SimpleNamespace(name=gone.name), [gone.vif])  # type: ignore[arg-type]

    kernel = in_two(monkeypatch, tmp_path, change, between)
    assert kernel.gone == ["vif-3"]
    assert sorted(kernel.ports) == ["vif-0", "vif-1", "vif-2"]


def test_a_guest_that_starts_while_others_are_swept_is_filtered(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its filter of the last time is there still, and is not taken away under it."""
    _, rooms = herd(monkeypatch, tmp_path, Late(lambda: None))  # type: ignore[arg-type]
    (*_, starting) = everyone = rooms.hypervisor.guests()
    there = [{ruleset.key(one.vif.id) for one in everyone}]
    rooms.rules, rooms.filters.known = Changing(), lambda: set(there[0])
    swept: list[list[str]] = []
    running = [everyone[:-1]]
    rooms.hypervisor.guests = lambda: running[0]

    def sweep(owners: Sequence[str], among: set[str]) -> list[str]:
        swept.append(sorted(owners))
        return []

    rooms.filters.sweep = sweep
    held, began = filter_order._held, []

    def late(rooms: Any) -> Any:
        if not began:
            began.append(True)
            running[0] = everyone
            filtering.enforce(rooms, starting)
        return held(rooms)

    monkeypatch.setattr(filter_order, "_held", late)
    monkeypatch.setattr(nics, "set_link", lambda *_, **__: None)
    monkeypatch.setattr(
        nics, "plugged", lambda guest: [SimpleNamespace(address=guest.vif.address, target="t", up=False)]
    )
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("cowshed.tools.run.find", lambda _: "/usr/sbin/nft")
    filtering.sweep(rooms)
    assert swept == [["vif-0", "vif-1", "vif-2", "vif-3"]]


def test_who_is_always_too_late_plans_where_nobody_is_faster(tmp_path: Path) -> None:
    rooms: Any = SimpleNamespace(state=tmp_path)
    planned: list[int] = []
    applied: list[str] = []

    def plan() -> list[str]:
        planned.append(len(planned))
        if len(planned) <= filter_order._ATTEMPTS:
            filter_order.in_order(rooms, lambda: ["theirs"], applied.extend)
        return ["ours"]

    assert filter_order.in_order(rooms, plan, applied.extend) == ["ours"]
    assert applied == ["theirs"] * filter_order._ATTEMPTS + ["ours"]


@pytest.mark.parametrize("text", ["", "x", "1e300"])
def test_what_was_noted_before_the_host_was_started_counts_for_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "locks").mkdir()
    (tmp_path / "locks" / "filters-latest").write_text(text)
    rooms: Any = SimpleNamespace(state=tmp_path)
    planned: list[int] = []
    filter_order.in_order(rooms, lambda: [*planned, planned.append(1)], lambda _: None)
    assert planned == [1]
