"""``cowshed rescue`` and others that take a path for an image, on the fake driver: what stays of it is told."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from cowshed.cli import output
from cowshed.manager.host import Host
from cowshed.testing import FakeDriver
from cowshed.units import MiB
from tests.fake_command import Call, cowshed, empty

__all__ = ["cowshed", "empty"]  # fixtures


@pytest.fixture
def driver(empty: FakeDriver) -> FakeDriver:
    """With the instance web."""
    Host.connect().run("debian", name="web", memory="64M")
    return empty


@pytest.fixture
def medic(tmp_path: Path) -> Path:
    path = tmp_path / "medic.raw"
    path.write_bytes(bytes(MiB))
    return path


@pytest.mark.parametrize(
    "words", [("rescue", "web", "--image"), ("rebuild", "web", "--yes"), ("run", "debian", "--kernel"), ("run",)]
)
def test_an_image_that_a_path_leaves_in_the_store_is_told_once(cowshed: Call, medic: Path, words: list[str]) -> None:
    code, _, err = cowshed(*words, medic)
    assert code == 0
    assert "cowshed image rm medic" in err
    assert "image rm" not in cowshed(*words, medic)[2]  # it was there


def test_programs_are_not_told_between_the_lines(cowshed: Call, medic: Path) -> None:
    assert "image rm" not in cowshed("rescue", "web", "--image", medic, "-o", "json")[2]


@pytest.mark.parametrize("words", [("rescue", "web", "--image"), ("rebuild", "web", "--yes")])
def test_what_it_boots_from_stays_where_nobody_reads_the_result(
    cowshed: Call, driver: FakeDriver, medic: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*words: object, **named: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output, "emit", full)
    assert cowshed(*words, medic)[0] == 8
    assert [one.name for one in driver.images.list(name="medic")] == ["medic"]
