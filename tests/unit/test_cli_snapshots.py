"""``cowshed snapshot create`` on a pretended guest with a real disk in a file."""

from __future__ import annotations

from pathlib import Path

from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import capture_note
from cowshed.manager.records import Records
from cowshed.model.image import Image
from tests.unit.test_cli_disks import rooms, stopped
from tests.unit.test_cli_verbs import Command, cowshed, refused, tiny, web

__all__ = ["cowshed", "rooms", "stopped", "tiny", "web"]  # fixtures


def image(cowshed: Command, name: str) -> Image:
    return cowshed.driver.images.show(name)


def test_create(cowshed: Command, stopped: str) -> None:
    made = cowshed("snapshot", "create", "web", "--name", "golden", "--property", "os_type=linux", "-o", "json")
    found = image(cowshed, "golden")
    assert made.json["image"]["id"] == found.id
    assert (found.disk_format, found.properties["os_type"], found.properties["image_type"]) == (
        "qcow2", "linux", "snapshot",
    )  # fmt: skip
    assert cowshed("events", "-o", "json").json["events"][-1]["detail"] == "golden"
    assert cowshed("snapshot", "create", "web").code == 0
    assert [name for name in cowshed("image", "ls", "-q").out.split() if name.startswith("web-2")]


def test_the_content_is_that_of_the_disk(cowshed: Command, stopped: str, rooms: Rooms, tmp_path: Path) -> None:
    cowshed("snapshot", "create", "web", "--name", "golden")
    base = rooms.cache.get(image(cowshed, "golden"), rooms.images)
    uuid = Records(rooms.state / "cowshed.db").find("web").uuid
    rooms.backends["qcow2"].disk(uuid, "disk").extract(tmp_path / "raw", base.format)
    assert base.path.read_bytes() == (tmp_path / "raw").read_bytes()


def test_what_cannot_be(cowshed: Command, stopped: str, rooms: Rooms) -> None:
    refused(cowshed("snapshot", "create", "nobody"), 3, "nobody")
    refused(cowshed("snapshot", "create", "web", "--name", "no/name"), 2, "no/name")
    refused(cowshed("snapshot", "create", "web", "--name", "tiny"), 4, "tiny")
    place = rooms.directory(Records(rooms.state / "cowshed.db").find("web").uuid).path
    assert not (place / capture_note.NOTE).exists()


def test_all_disks_are_one_set(cowshed: Command, stopped: str) -> None:
    """It has a swap disk, which is not in it. (Several disks: tests/vm/test_snapshot_guest.py.)"""
    made = cowshed("snapshot", "create", "web", "--name", "golden", "--all-disks", "-o", "json").json["images"]
    assert [one["name"] for one in made] == ["golden"]
    found = image(cowshed, "golden")
    assert found.properties["snapshot_disk"] == "disk"
    assert found.properties["snapshot_set"]
    assert cowshed("events", "-o", "json").json["events"][-1]["detail"] == "golden"
    refused(cowshed("snapshot", "create", "web", "--name", "golden", "--all-disks"), 4, "golden")
