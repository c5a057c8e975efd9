"""The manifest: what the disks of an instance are. The authority; nothing is ever probed.

``manifest.json`` beside the disks, replaced atomically; the checksum finds a file that something
else has written or cut.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from cowshed.errors import DataCorrupt, DiskNotFound
from cowshed.model.disk import DiskFormat, Manifest, ManifestDisk
from cowshed.tools import filesystem, locks

FILE = "manifest.json"
VERSION = 1
_LOCK = ".manifest.lock"


def load(directory: Path) -> Manifest:
    """The manifest in ``directory``; one without disks where there is none yet.

    :raises DataCorrupt: it cannot be trusted; nothing is guessed then
    """
    path = directory / FILE
    try:
        with filesystem.errors_of(path, "read"):
            text = path.read_bytes() if path.exists() else b""
        if not text:
            if path.exists():
                raise ValueError("it is empty")
            return Manifest(instance=directory.name)
        record = json.loads(text)
        if record["version"] != VERSION:
            raise ValueError(f"its version is {record['version']}, this program knows {VERSION}")
        if record["checksum"] != _checksum(record["disks"]):
            raise ValueError("its checksum is wrong")
        if record["instance"] != directory.name:
            raise ValueError(f"it belongs to instance {record['instance']}")
        return Manifest(record["instance"], {name: _disk(entry) for name, entry in record["disks"].items()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataCorrupt(
            path=path, reason=str(error), hint="restore it from a backup; disks are not probed"
        ) from error


def _disk(entry: dict[str, Any]) -> ManifestDisk:
    entry["format"] = DiskFormat(entry["format"])
    if entry["base_format"]:
        entry["base_format"] = DiskFormat(entry["base_format"])
    return ManifestDisk(**entry)


def find(directory: Path, name: str) -> ManifestDisk | None:
    return load(directory).disks.get(name)


def require(directory: Path, name: str) -> ManifestDisk:
    """:raises DiskNotFound: the manifest does not name it"""
    if found := find(directory, name):
        return found
    raise DiskNotFound(name=f"{name} of instance {directory.name}")


def record(directory: Path, disk: ManifestDisk) -> None:
    """Write what ``disk`` is; also makes its file's new name durable (one directory, one sync)."""
    with _locked(directory):
        _save(directory, {**load(directory).disks, disk.name: disk})


def forget(directory: Path, name: str) -> None:
    """Already gone is success."""
    if not (directory / FILE).exists():
        return
    with _locked(directory):
        disks = dict(load(directory).disks)
        if disks.pop(name, None):
            _save(directory, disks)


def _locked(directory: Path) -> AbstractContextManager[None]:
    return locks.lock(directory / _LOCK, timeout=60, what=f"the manifest of {directory.name}")


def _save(directory: Path, disks: Mapping[str, ManifestDisk]) -> None:
    entries = {name: asdict(disk) for name, disk in disks.items()}
    text = json.dumps(
        {"version": VERSION, "instance": directory.name, "checksum": _checksum(entries), "disks": entries}, indent=1
    )
    filesystem.write_atomically(directory / FILE, text.encode())


def _checksum(entries: Any) -> str:
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()
