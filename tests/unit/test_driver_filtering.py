"""Packet filters of many instances at once: what is asked, and how often."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed.driver.steps import filtering, nics
from cowshed.model.group import Direction, GroupRule, Member, SecurityGroup
from cowshed.model.vif import Vif, VifType

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
