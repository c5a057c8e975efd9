"""Instances that have their disks and nothing else: no libvirt is asked."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import layout, provision
from cowshed.images import pull
from cowshed.model.disk import DiskFormat
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.undo import Undo
from cowshed.units import MiB


def debian(rooms: Rooms, folder: Path) -> Image:
    """A raw image in the store: noise, and as many zeroes."""
    path = folder / "image.raw"
    path.write_bytes(os.urandom(MiB) + bytes(MiB))
    return pull.pull(rooms.images, str(path), name="debian", format=DiskFormat.RAW)


def cow(rooms: Rooms, image: Image, *, swap: int = 0) -> Instance:
    made = Instance(uuid=str(uuid.uuid4()), name="cow", flavor=Flavor(root=4 * MiB, swap=swap))
    with Undo() as undo:
        plan = layout.plan(rooms, made, image, None)
        provision.directory(rooms, made, undo)
        layout.remember(rooms, made, plan)
        provision.disks(rooms, made, image, plan, undo)
    return made
