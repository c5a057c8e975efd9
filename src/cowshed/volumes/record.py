"""Which volumes an instance has: a record beside its disks, written before the volume is connected.

So that whatever a killed process had connected is found again. Passwords are not in it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from cowshed import log
from cowshed.errors import DataCorrupt, NotFound
from cowshed.model.disk import Bus, Device, Encryption, EncryptionFormat
from cowshed.model.volume import AttachedVolume, VolumeState
from cowshed.tools import locks, versioned
from cowshed.volumes import info as infos

_log = log.logger(__name__)

FILE: Final = "volumes.json"
VERSION: Final = 1


def load(directory: Path) -> tuple[AttachedVolume, ...]:
    """In the order they were attached; none without a record.

    :raises DataCorrupt: it cannot be read
    """
    hint = (
        f"it is the record of instance {directory.name}: restore it from a backup, or stop that instance, "
        "move the file away, start it and attach its volumes again"
    )
    return versioned.load(directory / FILE, "volumes", VERSION, volume, hint=hint)


def save(directory: Path, volume: AttachedVolume) -> None:
    """Add it, or change what is known of it."""
    with _changing(directory) as known:
        known[:] = [*(one for one in known if one.id != volume.id), volume]


def forget(directory: Path, volume_id: str) -> None:
    """Already gone is success; so is a record that is, or its directory."""
    if not (directory / FILE).exists():
        return
    with suppress(NotFound), _changing(directory) as known:
        known[:] = [one for one in known if one.id != volume_id]


def exchange(directory: Path, gone: tuple[str, ...], volume: AttachedVolume) -> None:
    """``volume`` in place of those in ``gone``, in one step."""
    with _changing(directory) as known:
        known[:] = [*(one for one in known if one.id not in (*gone, volume.id)), volume]


@contextmanager
def _changing(directory: Path) -> Iterator[list[AttachedVolume]]:
    """One writer at a time: the locks of volumes are not those of the instance that has several."""
    with locks.directory(directory, timeout=60, what=f"the volumes of {directory.name}"):
        before = load(directory)
        known = list(before)
        yield known
        if tuple(known) != before:
            _write(directory, known)


def users(instances: Path, volume_id: str, *, skip_damaged: bool = False) -> Iterator[str]:
    """The UUIDs of all instances of this host that have the volume.

    :param skip_damaged: a record that cannot be read is known not to have it
    :raises DataCorrupt: one cannot be read, and may have it
    """
    for path in sorted(instances.glob(f"*/{FILE}")):
        try:
            found = load(path.parent)
        except DataCorrupt as error:
            if not skip_damaged:
                raise
            _log.warning("%s; %s", error, error.hint)
            continue
        if any(one.id == volume_id for one in found):
            yield path.parent.name


def _write(directory: Path, volumes: list[AttachedVolume]) -> None:
    versioned.save(directory / FILE, "volumes", VERSION, [entry(one) for one in volumes])


def entry(volume: AttachedVolume) -> dict[str, Any]:
    return dataclasses.asdict(
        dataclasses.replace(volume, connection_info=infos.without_passwords(volume.connection_info))
    )


def volume(entry: dict[str, Any]) -> AttachedVolume:
    encryption = entry["encryption"]
    return AttachedVolume(
        **{
            **entry,
            "bus": Bus(entry["bus"]),
            "device": Device(entry["device"]),
            "state": VolumeState(entry["state"]),
            "encryption": Encryption(**{**encryption, "format": EncryptionFormat(encryption["format"])})
            if encryption
            else None,
        }
    )
