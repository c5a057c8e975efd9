"""Which volumes an instance has: a record beside its disks, written before the volume is connected.

So that whatever a killed process had connected is found again. Passwords are not in it.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from cowshed.errors import DataCorrupt
from cowshed.model.disk import Bus, Device, Encryption, EncryptionFormat
from cowshed.model.volume import AttachedVolume, VolumeState
from cowshed.tools import filesystem
from cowshed.volumes import info as infos

FILE: Final = "volumes.json"
VERSION: Final = 1


def load(directory: Path) -> tuple[AttachedVolume, ...]:
    """In the order they were attached; none without a record.

    :raises DataCorrupt: it cannot be read
    """
    path = directory / FILE
    try:
        record = json.loads(path.read_text())
        if record["version"] > VERSION:
            raise ValueError(f"it was written by a newer cowshed (version {record['version']})")
        return tuple(volume(one) for one in record["volumes"])
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataCorrupt(path=path, reason=f"which volumes there are cannot be read: {error}") from error


def save(directory: Path, volume: AttachedVolume) -> None:
    """Add it, or change what is known of it."""
    others = [one for one in load(directory) if one.id != volume.id]
    _write(directory, [*others, volume])


def forget(directory: Path, volume_id: str) -> None:
    """Already gone is success."""
    before = load(directory)
    if any(one.id == volume_id for one in before):
        _write(directory, [one for one in before if one.id != volume_id])


def exchange(directory: Path, gone: tuple[str, ...], volume: AttachedVolume) -> None:
    """``volume`` in place of those in ``gone``, in one step."""
    others = [one for one in load(directory) if one.id not in (*gone, volume.id)]
    _write(directory, [*others, volume])


def users(instances: Path, volume_id: str) -> Iterator[str]:
    """The UUIDs of all instances of this host that have the volume."""
    for path in sorted(instances.glob(f"*/{FILE}")):
        if any(one.id == volume_id for one in load(path.parent)):
            yield path.parent.name


def _write(directory: Path, volumes: list[AttachedVolume]) -> None:
    entries = [entry(one) for one in volumes]
    text = json.dumps({"version": VERSION, "volumes": entries}, indent=1)
    filesystem.write_atomically(directory / FILE, text.encode())


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
