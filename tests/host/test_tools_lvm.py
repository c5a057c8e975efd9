"""LVM's commands when they misbehave: fakes in front of the real ones, for whoever runs the tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from cowshed.errors import Busy, DataCorrupt, NameTaken, NotFound, PermissionDenied, ToolFailed
from cowshed.tools import lvm, privilege

EMPTY = '{"report": [{"lv": []}]}'
ONE = (
    '{"report": [{"lv": [{"lv_name":"[x]", "lv_uuid":"u", "lv_size":"4096", "lv_attr":"-wi", "lv_tags":"cowshed,cowshed.disk=a+2fb", '
    '"lv_active":"active", "lv_device_open":"", "origin":"", "pool_lv":"", "segtype":"linear", "zero":"unknown", "data_percent":""}]}]}'
)


class Fakes:
    """Scripts instead of tools; ``calls(tool)`` counts."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.add("sudo", 'shift 2; exec "$@"')

    def add(self, tool: str, script: str) -> None:
        path = self.place / tool
        path.write_text(f'#!/bin/sh\necho "$*" >>"{self.place}/{tool}.calls"\n{script}\n')
        path.chmod(0o755)

    def calls(self, tool: str) -> int:
        return len((self.place / f"{tool}.calls").read_text().splitlines())


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fakes:
    monkeypatch.setenv("COWSHED_PATH", str(tmp_path))
    return Fakes(tmp_path)


def test_a_report_that_dies_of_a_signal_is_tried_again(fakes: Fakes) -> None:
    """Launchpad 1931710: lvs and vgs have been seen to end with -11."""
    fakes.add("lvs", f"[ $(wc -l <{fakes.place}/lvs.calls) -gt 1 ] || kill -SEGV $$\necho '{ONE}'")
    volumes = lvm.volumes("vg")
    assert fakes.calls("lvs") == 2
    assert volumes["x"].size == 4096
    assert volumes["x"].ours
    assert volumes["x"].tags == {"disk": "a/b"}


def test_a_report_that_always_dies_is_an_error(fakes: Fakes) -> None:
    fakes.add("lvs", "kill -SEGV $$")
    with pytest.raises(ToolFailed) as caught:
        lvm.volumes("vg")
    assert caught.value.status == -11
    assert fakes.calls("lvs") == 3


def test_a_report_that_is_none_is_said_to_be_damaged(fakes: Fakes) -> None:
    fakes.add("lvs", "echo surprise")
    with pytest.raises(DataCorrupt, match="report of lvs"):
        lvm.volumes("vg")


def test_a_missing_group_is_named(fakes: Fakes) -> None:
    fakes.add("vgs", "echo 'Volume group \"vg\" not found' >&2; exit 5")
    with pytest.raises(NotFound, match="volume group vg does not exist"):
        lvm.group("vg")


def test_who_looks_in_passing_is_waited_for(fakes: Fakes) -> None:
    fakes.add(
        "lvremove",
        f"[ $(wc -l <{fakes.place}/lvremove.calls) -gt 2 ] || {{ echo 'Logical volume vg/x in use.' >&2; exit 5; }}",
    )
    lvm.remove("vg", "cowshed-x")
    assert fakes.calls("lvremove") == 3


def test_who_stays_is_an_error(fakes: Fakes) -> None:
    fakes.add("lvremove", "echo 'Logical volume vg/x in use.' >&2; exit 5")
    with pytest.raises(Busy, match="cowshed-x"):
        lvm.remove("vg", "cowshed-x")


def test_a_name_that_was_taken_meanwhile(fakes: Fakes) -> None:
    fakes.add("lvrename", "echo 'already exists' >&2; exit 5")
    fakes.add("lvs", f"echo '{ONE.replace('[x]', 'cowshed-new')}'")
    with pytest.raises(NameTaken):
        lvm.rename("vg", "cowshed-old", "cowshed-new")
    fakes.add("lvs", f"echo '{EMPTY}'")
    with pytest.raises(NotFound):
        lvm.rename("vg", "cowshed-old", "cowshed-new")


def test_a_missing_rule_says_where_the_rules_are(fakes: Fakes, monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.add("vgs", "true")
    fakes.add("sudo", "echo 'sudo: a password is required' >&2; exit 1")
    monkeypatch.setattr(privilege.os, "geteuid", lambda: 1000)
    with pytest.raises(PermissionDenied) as caught:
        lvm.group("vg")
    assert "docs/privilege.md" in str(caught.value.hint)
    assert "password" in str(caught.value.hint)
