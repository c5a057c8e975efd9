"""The manifest: what the disks of an instance are. The authority; nothing is ever probed.

``manifest.json`` beside the disks, replaced atomically; the checksum finds a file that something
else has written or cut.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from cowshed.errors import CowshedError, DataCorrupt, DiskNotFound, NameTaken
from cowshed.model.disk import DiskFormat, DiskSnapshot, Encryption, EncryptionFormat, Manifest, ManifestDisk
from cowshed.tools import filesystem, locks

FILE = "manifest.json"
VERSION = 1
_FIELDS = tuple(field.name for field in fields(ManifestDisk))


def load(directory: Path) -> Manifest:
    """The manifest in ``directory``; one without disks where there is none yet.

    :raises DataCorrupt: it cannot be trusted; nothing is guessed then
    """
    return _LOADED.get(directory) or _load(directory)


def _load(directory: Path) -> Manifest:
    path = directory / FILE
    try:
        with filesystem.errors_of(path, "read"):
            found = _read(path)
        if found is None:
            return Manifest(instance=directory.name)
        text, facts = found
        record = json.loads(text)
        if record["version"] != VERSION:
            raise ValueError(f"its version is {record['version']}, this program knows {VERSION}")
        if record["checksum"] != _checksum(record["disks"]):
            raise ValueError("its checksum is wrong")
        if record["instance"] != directory.name:
            raise ValueError(f"it belongs to instance {record['instance']}")
        manifest = Manifest(record["instance"], {name: disk(entry) for name, entry in record["disks"].items()})
        _LOADED.keep(directory, facts, manifest)
        return manifest
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataCorrupt(
            path=path, reason=str(error), hint="restore it from a backup; disks are not probed"
        ) from error


def _read(path: Path) -> tuple[bytes, os.stat_result] | None:
    """The text, and which file it was."""
    try:
        with path.open("rb") as file:
            return file.read(), os.fstat(file.fileno())
    except FileNotFoundError:
        return None


class _Loaded:
    """What was read already, good as long as the file is the same.

    A file that has changed only just now is not kept: its next change may fall into the same tick of the
    file system's clock and could not be told from it.
    """

    LARGEST = 4096  # manifests
    SETTLED = 1_000_000_000  # ns

    def __init__(self) -> None:
        self._known: dict[str, tuple[tuple[int, ...], Manifest]] = {}

    def get(self, directory: Path) -> Manifest | None:
        known = self._known.get(str(directory))
        if known is None:
            return None
        try:
            facts = os.stat(f"{directory}/{FILE}")
        except OSError:
            return None
        return known[1] if known[0] == _identity(facts) else None

    def keep(self, directory: Path, facts: os.stat_result, manifest: Manifest) -> None:
        self._known.pop(str(directory), None)
        if time.time_ns() - max(facts.st_mtime_ns, facts.st_ctime_ns) < self.SETTLED:
            return
        while len(self._known) >= self.LARGEST:
            self._known.pop(next(iter(self._known)), None)
        self._known[str(directory)] = (_identity(facts), manifest)


def _identity(facts: os.stat_result) -> tuple[int, ...]:
    return facts.st_dev, facts.st_ino, facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns


_LOADED = _Loaded()


def disk(entry: dict[str, Any]) -> ManifestDisk:
    entry["format"] = DiskFormat(entry["format"])
    if entry["base_format"]:
        entry["base_format"] = DiskFormat(entry["base_format"])
    if encryption := entry.get("encryption"):
        entry["encryption"] = Encryption(**{**encryption, "format": EncryptionFormat(encryption["format"])})
    entry["snapshots"] = tuple(DiskSnapshot(**snapshot) for snapshot in entry.get("snapshots", ()))
    return ManifestDisk(**entry)


def find(directory: Path, name: str) -> ManifestDisk | None:
    return load(directory).disks.get(name)


def require(directory: Path, name: str) -> ManifestDisk:
    """What is known of the disk ``name``.

    :raises DiskNotFound: there is neither a record nor a file
    :raises DataCorrupt: there is a file that the manifest does not name; what it is is not guessed
    """
    if found := find(directory, name):
        return found
    if os.path.lexists(directory / name):
        raise DataCorrupt(
            path=directory / FILE,
            reason=f"it does not name the disk {name}, which is there",
            hint="restore it from a backup; disks are not probed",
        )
    raise DiskNotFound(name=f"{name} of instance {directory.name}")


@contextmanager
def announcing(directory: Path, disk: ManifestDisk, *, taken: Callable[[], bool]) -> Iterator[None]:
    """``disk`` is written down while the block makes it; an error takes that back.

    So whoever clears up after a killed process learns which key it had. A line without a disk means
    nothing else, and :func:`recording` decides in the end who has the name.

    :raises NameTaken: there is such a disk
    """
    with locked(directory):
        if taken():
            raise NameTaken(kind="disk", name=f"{disk.name} of instance {directory.name}")
        _save(directory, {**load(directory).disks, disk.name: disk})
    try:
        yield
    except BaseException:
        with suppress(CowshedError):
            _withdraw(directory, disk)
        raise


def _withdraw(directory: Path, disk: ManifestDisk) -> None:
    """Unless somebody else has written what the disk is meanwhile."""
    with locked(directory):
        disks = dict(load(directory).disks)
        if disks.get(disk.name) != disk:
            return
        del disks[disk.name]
        if disks:
            _save(directory, disks)
        else:
            filesystem.remove_file(directory / FILE)


@contextmanager
def recording(
    directory: Path,
    disk: ManifestDisk,
    *,
    taken: Callable[[], bool] | None = None,
    may_be_there: Callable[[BaseException], bool] = lambda error: False,
) -> Iterator[None]:
    """``disk`` is written down before the block gives it its name; an error takes that back.

    So there is never a disk without a record, which could only be probed. One sync of the
    directory, the caller's, makes both names durable.

    :param taken: is there such a disk already? None: look for its file in ``directory``
    :param may_be_there: has it got its name in spite of the error, or gets it yet? Its line stays then
    :raises NameTaken: there is
    """
    there = taken or (lambda: os.path.lexists(directory / disk.location))
    with locked(directory):
        if there():
            raise NameTaken(kind="disk", name=f"{disk.name} of instance {directory.name}")
        first = not (directory / FILE).exists()
        before = load(directory).disks
        _save(directory, {**before, disk.name: disk}, sync_parent=False)
        try:
            yield
        except BaseException as error:
            if may_be_there(error):
                raise
            with suppress(CowshedError):
                if first:
                    filesystem.remove_file(directory / FILE)
                else:
                    _save(directory, before, sync_parent=False)
            raise


@contextmanager
def editing(directory: Path) -> Iterator[dict[str, ManifestDisk]]:
    """The disks, to be changed in the block; written when it ends well and something has changed."""
    with locked(directory):
        disks = dict(load(directory).disks)
        before = dict(disks)
        yield disks
        if disks != before:
            _save(directory, disks)


def exchange(directory: Path, pairs: Mapping[str, str]) -> None:
    """Each disk of ``pairs`` gets the other's name, in one step; where they lie does not change.

    A name of a pair that no disk has yet is given away as well: the other one is renamed then.
    """
    with editing(directory) as disks:
        for first, second in pairs.items():
            one, other = disks.pop(first, None), disks.pop(second, None)
            if one:
                disks[second] = replace(one, name=second)
            if other:
                disks[first] = replace(other, name=first)


def record(directory: Path, disk: ManifestDisk) -> None:
    """Write what ``disk`` is."""
    with editing(directory) as disks:
        disks[disk.name] = disk


def forget(directory: Path, name: str) -> None:
    """Already gone is success."""
    if (directory / FILE).exists():
        with editing(directory) as disks:
            disks.pop(name, None)


def locked(directory: Path) -> AbstractContextManager[int]:
    """One writer at a time, in any process."""
    return locks.directory(directory, timeout=60, what=f"the manifest of {directory.name}")


def _save(directory: Path, disks: Mapping[str, ManifestDisk], *, sync_parent: bool = True) -> None:
    entries = _text({name: _entry(disk) for name, disk in disks.items()})
    digest = hashlib.sha256(entries.encode()).hexdigest()
    head = json.dumps({"version": VERSION, "instance": directory.name, "checksum": digest})
    text = f'{head[:-1]},\n"disks": {entries}}}\n'
    filesystem.write_atomically(directory / FILE, text.encode(), sync_parent=sync_parent)


def _entry(disk: ManifestDisk) -> dict[str, Any]:
    entry = {field: getattr(disk, field) for field in _FIELDS}
    if disk.encryption:
        entry["encryption"] = asdict(disk.encryption)
    entry["snapshots"] = [asdict(snapshot) for snapshot in disk.snapshots]
    return entry


def _text(entries: Any) -> str:
    """The one spelling of the disks that the checksum is over."""
    return json.dumps(entries, sort_keys=True)


def _checksum(entries: Any) -> str:
    return hashlib.sha256(_text(entries).encode()).hexdigest()
