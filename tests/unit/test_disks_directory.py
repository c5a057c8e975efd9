"""The directory of an instance."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path

import pytest

from cowshed.disks.directory import InstanceDirectory
from cowshed.errors import InvalidRequest, PermissionDenied

UUID = str(uuid.UUID(int=7))


def test_it_comes_and_goes_and_both_may_be_repeated(tmp_path: Path) -> None:
    place = InstanceDirectory(tmp_path / "instances", UUID)
    assert not place.exists()
    assert os.listdir(tmp_path) == []  # a handle does nothing
    place.delete()
    place.create()
    place.create()
    assert place.exists()
    assert stat.S_IMODE(place.path.stat().st_mode) & 0o006 == 0  # nobody else may list or write
    (place.path / "disk").write_text("x")
    place.delete()
    place.delete()
    assert os.listdir(tmp_path / "instances") == []


def test_a_deletion_that_was_interrupted_is_finished(tmp_path: Path) -> None:
    place = InstanceDirectory(tmp_path, UUID)
    place.create()
    (place.path / "disk").write_text("x")
    place.path.rename(tmp_path / f"{UUID}_del")
    assert not place.exists()
    place.delete()
    assert os.listdir(tmp_path) == []


def test_a_new_instance_of_the_same_uuid_is_not_touched_by_an_old_deletion(tmp_path: Path) -> None:
    (tmp_path / f"{UUID}_del").mkdir()
    (tmp_path / f"{UUID}_del" / "disk").write_text("old")
    place = InstanceDirectory(tmp_path, UUID)
    place.create()
    (place.path / "disk").write_text("new")
    assert (place.path / "disk").read_text() == "new"
    place.delete()
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["", "..", "a", f"{UUID}/..", f"{UUID}\n", f"{UUID}_del", "*", UUID[:-1]])
def test_only_uuids_name_instances(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidRequest):
        InstanceDirectory(tmp_path, name)


def test_a_place_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)
    with pytest.raises(PermissionDenied) as caught:
        InstanceDirectory(tmp_path / "instances", UUID).create()
    assert "instances" in str(caught.value)
