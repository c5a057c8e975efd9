"""``cowshed share`` and ``cowshed run --share``, and the library under them, on the fake driver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
import pytest

from cowshed.cli import app
from cowshed.cli.context import directories
from cowshed.cli.shares import share_tags
from cowshed.errors import UnsupportedOperation
from cowshed.manager.host import Host
from cowshed.shares import record, spec
from cowshed.testing import FakeDriver
from tests.fake_command import Call, cowshed, empty

__all__ = ["cowshed", "empty"]  # fixtures


@pytest.fixture
def driver(empty: FakeDriver, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeDriver:
    """With the instance web, and the directories a and b."""
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    Host.connect().run("debian", name="web", memory="64M", networks=["none"])
    return empty


def listed(cowshed: Call, name: str = "web") -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(cowshed("share", "ls", name, "-o", "json")[1])["shares"]
    return found


def test_a_share_comes_is_listed_and_goes(cowshed: Call, driver: FakeDriver, tmp_path: Path) -> None:
    code, out, _ = cowshed("share", "attach", "web", "./a:data:ro", "-o", "json")
    assert code == 0
    assert json.loads(out)["share"]["source"] == str(tmp_path / "a")
    (one,) = listed(cowshed)
    assert (one["instance"], one["tag"], one["read_only"], one["type"]) == ("web", "data", True, "local")
    assert one["status"] == "active"
    assert "read-only" in cowshed("share", "ls")[1]
    assert cowshed("stop", "web", "--force")[0] == 0
    assert cowshed("share", "attach", "web", tmp_path / "b")[0] == 0
    assert [one["status"] for one in listed(cowshed)] == ["inactive", "inactive"]
    assert cowshed("start", "web")[0] == 0
    assert [one["status"] for one in listed(cowshed)] == ["active", "active"]
    assert cowshed("share", "detach", "web", tmp_path / "a")[0] == 0
    assert cowshed("share", "detach", "web", "b", "--wait", "5s")[0] == 0
    assert listed(cowshed) == []
    events = [entry["event"] for entry in json.loads(cowshed("events", "-o", "json")[1])["events"]]
    assert {"share attached", "share detached"} <= set(events)


def test_an_instance_is_made_with_shares(cowshed: Call, driver: FakeDriver) -> None:
    run = ("run", "debian", "--name", "two", "--memory", "64M", "--network", "none")
    assert cowshed(*run, "--share", "a", "--share", "b:other:ro")[0] == 0
    assert [(one["tag"], one["read_only"]) for one in listed(cowshed, "two")] == [("a", False), ("other", True)]
    assert [one["status"] for one in listed(cowshed, "two")] == ["active", "active"]


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["attach", "web", "missing"], 3, "directory"),
        (["attach", "web", "a:" + "x" * 37], 2, "36"),
        (["attach", "web", "/"], 2, "no name"),
        (["attach", "nobody", "a"], 3, "nobody"),
        (["detach", "web", "a"], 3, "share a of web does not exist"),
    ],
)
def test_what_cannot_be(cowshed: Call, words: list[str], code: int, said: str) -> None:
    found, _, err = cowshed("share", *words)
    assert (found, said in err) == (code, True), err
    assert listed(cowshed) == []


def test_a_share_that_cannot_be_is_refused_before_an_image_is_brought_in(
    cowshed: Call, driver: FakeDriver, tmp_path: Path
) -> None:
    images = len(driver.images.list())
    code, _, err = cowshed("run", "/nonexistent.qcow2", "--name", "two", "--share", "missing")
    assert (code, "directory" in err) == (3, True), err
    code, _, err = cowshed("run", "debian", "--name", "two", "--share", "a", "--share", "b:a")
    assert (code, "tag a" in err) == (4, True), err
    assert len(driver.images.list()) == images
    assert "two" not in cowshed("ls")[1]


def test_a_share_that_cannot_be_attached_is_not_listed(cowshed: Call, driver: FakeDriver) -> None:
    driver.fail("give_shares", UnsupportedOperation(subject="it", operation="share", reason="of a test"))
    assert cowshed("share", "attach", "web", "a")[0] == 6
    assert listed(cowshed) == []


def test_completion_knows_tags_and_directories(cowshed: Call, tmp_path: Path) -> None:
    found = Host.connect().instances.records.find("web")
    place = tmp_path / "state" / "instances" / found.uuid
    place.mkdir(parents=True)
    record.save(place, [spec.parse("a"), spec.parse("b:data")])
    context = click.Context(app.cowshed)
    context.params["instance"] = "web"
    parameter = click.Argument(["share"])
    assert share_tags(context, parameter, "") == ["a", "data"]
    assert share_tags(context, parameter, "d") == ["data"]
    context.params["instance"] = "nobody"
    assert share_tags(context, parameter, "") == []
    assert [one.type for one in directories(context, parameter, "/u")] == ["dir"]


def test_the_library(driver: FakeDriver, tmp_path: Path) -> None:
    with Host.connect() as host:
        machine = host.machine("web")
        assert machine.attach_share("a:data").tag == "data"
        assert [one.source for one in machine.shares()] == [str(tmp_path / "a")]
        machine.detach_share("data", timeout=5)
        assert machine.shares() == []
