"""Where things of an instance are: its directory, its disks, what it was launched from."""

from __future__ import annotations

import dataclasses
import json
from typing import TYPE_CHECKING, Any

from cowshed.errors import CowshedError, DataCorrupt
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image, ImageStatus
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif

if TYPE_CHECKING:
    from pathlib import Path

    from cowshed.contract.storage import Disk
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest

LAUNCH = "launch.json"


def name(rooms: Rooms, uuid: str) -> str:
    """What people call the instance: libvirt's name of it, or its UUID where libvirt does not tell."""
    try:
        guest = rooms.hypervisor.find(uuid)
    except CowshedError:
        return uuid
    return guest.name if guest else uuid


def console_log(rooms: Rooms, uuid: str) -> Path:
    """The file the serial console is logged to."""
    return rooms.directory(uuid).path / "console.log"


def disks(rooms: Rooms, uuid: str) -> list[tuple[str, Disk]]:
    """(backend, disk) of every disk of the instance that is there, as its manifest names them.

    :raises ConfigError: one is on a backend that is not configured any more :raises DataCorrupt:
    """
    from cowshed.disks import manifest

    entries = manifest.load(rooms.directory(uuid).path).disks.values()
    found = [(entry.backend, rooms.backend(entry.backend).disk(uuid, entry.name)) for entry in entries]
    return [(backend, disk) for backend, disk in found if disk.exists()]


def disk(rooms: Rooms, uuid: str, name: str) -> Disk:
    """The disk that the manifest calls ``name``. :raises DiskNotFound: :raises ConfigError: :raises DataCorrupt:"""
    from cowshed.disks import manifest

    return rooms.backend(manifest.require(rooms.directory(uuid).path, name).backend).disk(uuid, name)


def remembered_vifs(rooms: Rooms, guest: Guest) -> tuple[Vif, ...]:
    """The interfaces the instance was defined with, for calls that do not carry them.

    :raises DataCorrupt: the domain's metadata is damaged
    """
    from cowshed.domain import read

    recovered = read.recover(guest.xml(inactive=True))
    return recovered.vifs if recovered else ()


def remember_image(rooms: Rooms, instance: Instance, image: Image) -> None:
    """Keep what the contract's later calls do not carry: the image's properties."""
    from cowshed.tools import filesystem

    record = dataclasses.asdict(image)
    record["properties"] = dict(image.properties)
    filesystem.write_atomically(rooms.directory(instance.uuid).path / LAUNCH, json.dumps({"image": record}).encode())


def remembered_image(rooms: Rooms, instance: Instance) -> Image:
    """The image the instance was launched from, without asking the image service (it may be gone).

    :raises DataCorrupt: the record cannot be read
    """
    path = rooms.directory(instance.uuid).path / LAUNCH
    try:
        record: dict[str, Any] = json.loads(path.read_text())["image"]
    except FileNotFoundError:
        return Image(id=instance.image_ref)
    except (OSError, ValueError, KeyError) as error:
        raise DataCorrupt(path=path, reason=str(error)) from error
    record["disk_format"] = DiskFormat(record["disk_format"])
    record["status"] = ImageStatus(record["status"])
    return Image(**record)
