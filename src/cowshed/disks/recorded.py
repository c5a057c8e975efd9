"""What the disks of every backend share: checked names, sizes, and a line in the instance's manifest.

The line is written first, then the finished disk gets its name: a disk is never without a record
of what it is, and a line without a disk (left by a crash) means nothing.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

from cowshed.contract.storage import Disk
from cowshed.disks import manifest
from cowshed.errors import DiskNotFound, DiskTooSmall, InvalidRequest, NameTaken, UnsupportedOperation
from cowshed.model.disk import Base, DiskInfo, Encryption, ManifestDisk
from cowshed.tools import filesystem
from cowshed.units import format_size

SECTOR: Final = 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class RecordedDisk(Disk):
    """A disk whose facts stand in ``<instances>/<uuid>/manifest.json``."""

    backend: ClassVar[str]

    def __init__(self, instances: Path, instance: str, name: str) -> None:
        if not _NAME.fullmatch(name) or name == manifest.FILE:
            raise InvalidRequest(reason=f"{name!r} cannot be the name of a disk")
        if not _NAME.fullmatch(instance):
            raise InvalidRequest(reason=f"{instance!r} cannot be the UUID of an instance")
        self.instance = instance
        self.name = name
        self.directory = instances / instance

    @property
    def label(self) -> str:
        """For errors."""
        return f"{self.name} of instance {self.instance}"

    @abstractmethod
    def _new_location(self) -> str:
        """Where the disk will be, in the backend's own words, when it is made now."""

    def location(self) -> str:
        """Where it is: what the manifest says, else where it would be made."""
        entry = manifest.find(self.directory, self.name)
        return entry.location if entry and entry.backend == self.backend else self._new_location()

    # --- before it is made --------------------------------------------------------------------

    def _wanted(self, size: int, base: Base | None) -> int:
        """Bytes the guest will see, in whole sectors. :raises DiskTooSmall: before anything is made"""
        if base and size and size < base.virtual_size:
            raise DiskTooSmall(
                disk=self.name,
                size=size,
                needed=base.virtual_size,
                hint=f"ask for at least {format_size(base.virtual_size)}",
            )
        size = size or (base.virtual_size if base else 0)
        if size <= 0:
            raise InvalidRequest(reason=f"disk {self.name} needs a size")
        return whole_sectors(size)

    def _refuse_existing(self) -> None:
        """Early, to save the work; what decides is the last step, under the manifest's lock."""
        if self.exists():
            raise NameTaken(kind="disk", name=self.label)

    def _refuse_encryption(self, encrypt: bool) -> None:
        if encrypt:
            raise UnsupportedOperation(
                subject=f"backend {self.backend}", operation="encrypt disks", reason="it has no way to"
            )

    def _described(self, size: int, base: Base | None, encryption: Encryption | None = None) -> ManifestDisk:
        parent = self._parent(base)
        in_file = parent is not None and parent.path.parts != ()
        return ManifestDisk(
            name=self.name,
            backend=self.backend,
            format=self.format,
            location=self._new_location(),
            virtual_size=size,
            base_path=str(parent.path.absolute()) if parent and in_file else None,
            base_format=parent.format if parent else None,
            base_digest=base.digest if base else None,
            image_id=base.image_id if base else "",
            encryption=encryption,
        )

    def _parent(self, base: Base | None) -> Base | None:
        """The base that the disk goes on reading, if any."""
        return None

    # --- when it is there ---------------------------------------------------------------------

    def _entry(self) -> ManifestDisk:
        """:raises DiskNotFound: :raises DataCorrupt: there is a disk that the manifest does not name"""
        if not self.exists():
            raise DiskNotFound(name=self.label)
        return manifest.require(self.directory, self.name)

    def info(self) -> DiskInfo:
        entry = self._entry()
        return DiskInfo(
            format=entry.format,
            virtual_size=entry.virtual_size,
            allocated=self._allocated(entry),
            backing_path=entry.base_path,
            backing_format=entry.base_format,
            encryption=entry.encryption,
        )

    @abstractmethod
    def _allocated(self, entry: ManifestDisk) -> int:
        """Bytes the storage holds for it."""

    def resize(self, size: int) -> None:
        size = whole_sectors(size)
        self._entry()
        with manifest.editing(self.directory) as disks:
            entry = self._entry()
            if size < entry.virtual_size:
                raise DiskTooSmall(
                    disk=self.name, size=size, needed=entry.virtual_size, hint="a disk can grow, but is never cut"
                )
            if size == entry.virtual_size:
                return
            with filesystem.errors_of(self._shown(entry), "resize"):
                self._grow(entry, size)
            disks[self.name] = replace(entry, virtual_size=size)

    def _shown(self, entry: ManifestDisk) -> Path:
        """What errors call the disk."""
        return Path(entry.location)

    @abstractmethod
    def _grow(self, entry: ManifestDisk, size: int) -> None:
        """From ``entry.virtual_size`` to ``size`` bytes, durably; an error leaves it as it was."""


def recorded(instances: Path, instance: str, backend: str) -> Sequence[ManifestDisk]:
    """What the manifest says this instance has on ``backend``. :raises DataCorrupt:"""
    return [entry for entry in manifest.load(instances / instance).disks.values() if entry.backend == backend]


def whole_sectors(size: int) -> int:
    return -(-size // SECTOR) * SECTOR
