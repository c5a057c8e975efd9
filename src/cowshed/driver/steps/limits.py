"""Limits of an instance's disks: the flavor's, until somebody changes them; then what stands beside the disks."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.domain import qos
from cowshed.errors import CowshedError, DataCorrupt
from cowshed.model.disk import IoTune
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from pathlib import Path

    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

FILE = "limits.json"
VERSION = 1


def of_disks(rooms: Rooms, instance: Instance, names: Iterable[str]) -> dict[str, IoTune]:
    """Disk name to its limits, of those that have some.

    :raises DataCorrupt: the record cannot be read
    """
    known = list(names)
    found = {**by_flavor(instance, known), **_remembered(rooms, instance.uuid)}
    return {name: tune for name in known if (tune := found.get(name)) is not None}


def by_flavor(instance: Instance, names: Iterable[str]) -> dict[str, IoTune | None]:
    """What the flavor says of each disk; what is read once and never written is not limited."""
    from cowshed.driver.steps import disk_names

    said = {disk_names.disk_name(word): tune for word, tune in qos.by_disk(instance.flavor.extra_specs).items() if word}
    usual = qos.iotune(instance.flavor.extra_specs)
    return {name: said.get(name, None if disk_names.read_only(name) else usual) for name in names}


def remember(rooms: Rooms, uuid: str, changed: Mapping[str, IoTune | None]) -> None:
    """Write the limits of these disks down; None: it has none, whatever the flavor says."""
    from cowshed.tools import filesystem

    disks = {**_remembered(rooms, uuid), **changed}
    record = {"version": VERSION, "disks": {name: qos.values_of(tune) for name, tune in disks.items()}}
    filesystem.write_atomically(_path(rooms, uuid), json.dumps(record, indent=1).encode())


def restore(rooms: Rooms, uuid: str, before: bytes | None) -> None:
    """Have the record as :func:`raw` read it."""
    from cowshed.tools import filesystem

    if before is None:
        filesystem.remove_file(_path(rooms, uuid))
    else:
        filesystem.write_atomically(_path(rooms, uuid), before)


def raw(rooms: Rooms, uuid: str) -> bytes | None:
    """The record as it is; None: there is none."""
    try:
        return _path(rooms, uuid).read_bytes()
    except FileNotFoundError:
        return None


def apply(rooms: Rooms, instance: Instance, guest: Guest) -> None:
    """Let a guest whose saved memory knows the limits of then have those of now; what fails is logged."""
    from cowshed.driver.steps import placing
    from cowshed.hypervisor import iotune

    try:
        changed = _remembered(rooms, instance.uuid)
        places = placing.remembered(rooms, instance) if changed else {}
        for name, tune in changed.items():
            if name in places:
                iotune.limit(guest, places[name].target, tune)
    except CowshedError as error:
        _log.warning("%s runs with the limits it was suspended with: %s", instance.name, error)


def _path(rooms: Rooms, uuid: str) -> Path:
    return rooms.directory(uuid).path / FILE


def _remembered(rooms: Rooms, uuid: str) -> dict[str, IoTune | None]:
    path = _path(rooms, uuid)
    text = raw(rooms, uuid)
    if text is None:
        return {}
    try:
        record = json.loads(text)
        if record["version"] != VERSION:
            raise ValueError(f"its version is {record['version']}, this program knows {VERSION}")
        return {name: IoTune(**values) if values else None for name, values in record["disks"].items()}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataCorrupt(path=path, reason=str(error), hint="remove it to have the flavor's limits again") from error
