"""Where the disks of an instance stand in its guest: written beside them, and read by every later start."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cowshed.errors import DataCorrupt
from cowshed.model.disk import Bus, Device
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

FILE = "layout.json"
RESCUE_FILE = "rescue.json"  # instead of the other one, while the instance is rescued


@dataclass(frozen=True, slots=True)
class Place:
    """Where a disk stands in the guest."""

    target: str
    bus: Bus
    device: Device = Device.DISK
    boot_order: int | None = None
    readonly: bool = False


def remember_places(rooms: Rooms, uuid: str, found: Mapping[str, Place], file: str = FILE) -> None:
    from cowshed.tools import filesystem

    places = {name: dataclasses.asdict(place) for name, place in found.items()}
    path = rooms.directory(uuid).path / file
    filesystem.write_atomically(path, json.dumps({"version": 1, "places": places}, indent=1).encode())


def rescued(rooms: Rooms, uuid: str) -> bool:
    """Does it boot from rescue disks now?"""
    return (rooms.directory(uuid).path / RESCUE_FILE).exists()


def remembered(rooms: Rooms, instance: Instance) -> dict[str, Place]:
    """Where the disks stand at the next start.

    :raises DataCorrupt: the record is missing or cannot be read
    """
    return places_in(rooms, instance.uuid, RESCUE_FILE if rescued(rooms, instance.uuid) else FILE)


def places_in(rooms: Rooms, uuid: str, file: str) -> dict[str, Place]:
    """:raises DataCorrupt:"""
    path = rooms.directory(uuid).path / file
    try:
        record = json.loads(path.read_text())["places"]
        return {
            name: Place(**{**place, "bus": Bus(place["bus"]), "device": Device(place["device"])})
            for name, place in record.items()
        }
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataCorrupt(path=path, reason=f"where the disks stand cannot be read: {error}") from error
