"""UEFI variables: set aside and given back, and as one word to another host."""

from __future__ import annotations

import base64
import zlib
from pathlib import Path

import pytest

from cowshed.config import Config, HostSection
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import nvram
from cowshed.errors import DataCorrupt

UUID = "0c7e8a52-0000-4000-8000-000000000001"


@pytest.fixture
def place(tmp_path: Path) -> Path:
    found = tmp_path / "instances" / UUID
    found.mkdir(parents=True)
    return found


@pytest.fixture
def rooms(tmp_path: Path) -> Rooms:
    return Rooms(Config(host=HostSection(state=str(tmp_path))))


def test_set_aside_and_given_back(rooms: Rooms, place: Path) -> None:
    for step in (nvram.set_aside, nvram.give_back, nvram.forget):
        step(rooms, UUID)  # none is success
    (place / "nvram.fd").write_bytes(b"old")
    nvram.set_aside(rooms, UUID)
    assert not (place / "nvram.fd").exists()
    (place / "nvram.fd").write_bytes(b"new")
    nvram.give_back(rooms, UUID)
    assert (place / "nvram.fd").read_bytes() == b"old"
    nvram.set_aside(rooms, UUID)
    nvram.forget(rooms, UUID)
    assert list(place.iterdir()) == []


def test_to_another_host(rooms: Rooms, place: Path, tmp_path: Path) -> None:
    assert nvram.packed(rooms, UUID) == ""
    (place / "nvram.fd").write_bytes(b"\xff" * 540672)
    word = nvram.packed(rooms, UUID)
    assert len(word) < 4096
    there = tmp_path / "there"
    there.mkdir()
    nvram.unpack(there, "")
    assert list(there.iterdir()) == []
    nvram.unpack(there, word)
    assert (there / "nvram.fd").read_bytes() == b"\xff" * 540672


@pytest.mark.parametrize(
    "word",
    ["%%%", base64.b64encode(b"not zlib").decode(), base64.b64encode(zlib.compress(b"x" * 1000)[:-4]).decode()],
    ids=["base64", "zlib", "cut"],
)
def test_what_cannot_be_used_is_said(tmp_path: Path, word: str) -> None:
    with pytest.raises(DataCorrupt, match="cannot be used"):
        nvram.unpack(tmp_path, word)
    assert list(tmp_path.iterdir()) == []


def test_no_more_is_unpacked_than_a_firmware_can_have(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvram, "LARGEST", 1000)
    with pytest.raises(DataCorrupt, match="too large"):
        nvram.unpack(tmp_path, base64.b64encode(zlib.compress(b"x" * 1001)).decode())
