"""How the disks of an instance are driven: what flavor, image and this host say of each."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cowshed.domain import drive, qos
from cowshed.domain.properties import Properties
from cowshed.driver.steps import disk_names, limits, placing
from cowshed.errors import InvalidRequest
from cowshed.model.disk import CacheMode
from cowshed.model.image import Image
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms


def options(rooms: Rooms, properties: Properties, name: str) -> dict[str, Any]:
    """Fields of the ``AttachedDisk`` of this name. What is read once and never written needs none of it.

    :raises InvalidRequest: what is asked for cannot be
    """
    section = rooms.config.disks
    if disk_names.read_only(name):
        return {"cache": CacheMode(section.cache)}
    return dataclasses.asdict(drive.options(properties, section, disk_names.words_of(name)))


def check(rooms: Rooms, instance: Instance, image: Image, places: Mapping[str, placing.Place]) -> None:
    """What is asked for the disks of a new instance can be, and is asked for disks that can be.

    :raises InvalidRequest:
    """
    properties = Properties.of(image, instance)
    _check_words([*image.properties, *instance.flavor.extra_specs])
    drive.check_threads(properties, [place.bus for place in places.values()])
    for name in places:
        options(rooms, properties, name)
    qos.check_groups(limits.by_flavor(instance, places).items())


def _check_words(keys: Sequence[str]) -> None:
    """A word behind the @ that no disk can ever have is a typing error."""
    for key in keys:
        word = key.partition(qos.AT)[2]
        if not word or not key.startswith((qos.PREFIX, *drive.PREFIXES)):
            continue
        name = disk_names.disk_name(word)
        if name in disk_names.WORDS.values() or name.removeprefix(disk_names.EPHEMERAL).isdigit():
            continue
        known = [*disk_names.WORDS, "eph0"]
        near = difflib.get_close_matches(word, known, n=1)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
        raise InvalidRequest(reason=f"{key}: no disk is called {word}", hint=hint)
