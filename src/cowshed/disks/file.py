"""What raw and qcow2 disks share: a file in the instance's directory and its line in the manifest.

The line is written first, then the finished file gets its name: a file is never without a record
of what it is, and a line without a file (left by a crash) means nothing.
"""

from __future__ import annotations

import os
import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

from cowshed.config import DisksSection
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import Backend, Disk, Importing
from cowshed.disks import manifest
from cowshed.errors import DiskNotFound, DiskTooSmall, InvalidRequest, NameTaken
from cowshed.model.disk import (
    Base,
    Capacity,
    DiskFormat,
    DiskInfo,
    DiskSource,
    DiskType,
    ManifestDisk,
    Preallocation,
)
from cowshed.tools import filesystem
from cowshed.tools.filesystem import Publication
from cowshed.units import format_size

_SECTOR = 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class FileDisk(Disk, Importing):
    """``<instances>/<uuid>/<name>``."""

    format: DiskFormat
    backend: ClassVar[str]

    def __init__(self, instances: Path, section: DisksSection, instance: str, name: str) -> None:
        if not _NAME.fullmatch(name) or name == manifest.FILE:
            raise InvalidRequest(reason=f"{name!r} cannot be the name of a disk")
        if not _NAME.fullmatch(instance):
            raise InvalidRequest(reason=f"{instance!r} cannot be the UUID of an instance")
        self.instance = instance
        self.name = name
        self.section = section
        self.directory = instances / instance
        self.path = self.directory / name

    def exists(self) -> bool:
        return os.path.lexists(self.path)

    def create(self, size: int = 0, base: Base | None = None, *, progress: Progress = SILENT) -> None:
        size = self._wanted(size, base)
        if base:
            self._check_base(base)
        self._make(size, base, lambda new: self._fill(new, size, base, progress))

    def create_filled(self, size: int, write: Callable[[Path], object]) -> None:
        """Make the disk with what ``write`` puts into a raw file of ``size`` zero bytes.

        :raises NameTaken: :raises NoSpace: as :meth:`create`
        """
        size = self._wanted(size, None)
        self._make(size, None, lambda new: self._fill_with(new, size, write))

    def _make(self, size: int, base: Base | None, fill: Callable[[Publication], None]) -> None:
        self._refuse_existing()
        unsynced = filesystem.make_directory_unsynced(self.directory)
        try:
            with filesystem.publish(self.path, unnamed=True) as new:
                fill(new)
                # Begun now, the blocks of the disk go into the same journal commit as the manifest's.
                filesystem.start_writing(new.fd, 0, 0)
                with manifest.recording(self.directory, self._described(size, base)):
                    new.commit()
                    self._sync(unsynced)
        except BaseException:
            if unsynced:
                with suppress(OSError):
                    self.directory.rmdir()
            raise

    def _sync(self, places: Sequence[Path]) -> None:
        """The last step; the disk that was given its name just now goes again if it fails."""
        try:
            for place in places:
                filesystem.sync_directory(place)
        except BaseException:
            filesystem.remove_file(self.path)
            raise

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
        return _whole_sectors(size)

    def _refuse_existing(self) -> None:
        """Early, to save the work; what decides is the last step, under the manifest's lock."""
        if self.exists():
            raise NameTaken(kind="disk", name=f"{self.name} of instance {self.instance}")

    @abstractmethod
    def _check_base(self, base: Base) -> None:
        """Before anything is made. :raises InvalidRequest: this kind of disk cannot have this base"""

    @abstractmethod
    def _fill(self, new: Publication, size: int, base: Base | None, progress: Progress) -> None:
        """Write the disk into the empty file ``new``."""

    @abstractmethod
    def _fill_with(self, new: Publication, size: int, write: Callable[[Path], object]) -> None:
        """Write a disk with what ``write`` makes of a raw file into the empty file ``new``."""

    @abstractmethod
    def _parent(self, base: Base | None) -> Base | None:
        """The base that the disk goes on reading, if any."""

    def _described(self, size: int, base: Base | None) -> ManifestDisk:
        parent = self._parent(base)
        return ManifestDisk(
            name=self.name,
            backend=self.backend,
            format=self.format,
            location=self.name,
            virtual_size=size,
            base_path=str(parent.path.absolute()) if parent else None,
            base_format=parent.format if parent else None,
            base_digest=base.digest if base else None,
            image_id=base.image_id if base else "",
        )

    def import_file(self, path: Path) -> None:
        """Take over a finished raw file as this disk's content; ``path`` is gone afterwards.

        :raises NameTaken: the disk exists already; ``path`` is left as it is
        """
        with filesystem.errors_of(path, "take over"):
            size = self._wanted(path.stat().st_size, None)
        self._refuse_existing()
        filesystem.make_directory(self.directory)
        with manifest.recording(self.directory, self._described(size, None)):
            self._take(path, size)

    @abstractmethod
    def _take(self, path: Path, size: int) -> None:
        """Let the content of ``path`` appear, durably, at ``self.path``; then ``path`` is not needed."""

    def resize(self, size: int) -> None:
        size = _whole_sectors(size)
        self._entry()
        with manifest.editing(self.directory) as disks:
            entry = self._entry()
            if size < entry.virtual_size:
                raise DiskTooSmall(
                    disk=self.name, size=size, needed=entry.virtual_size, hint="a disk can grow, but is never cut"
                )
            if size == entry.virtual_size:
                return
            with filesystem.errors_of(self.path, "resize"):
                self._grow(entry, size)
            disks[self.name] = replace(entry, virtual_size=size)

    @abstractmethod
    def _grow(self, entry: ManifestDisk, size: int) -> None:
        """From ``entry.virtual_size`` to ``size`` bytes, durably; an error leaves it as it was."""

    def delete(self) -> None:
        if not (self.exists() or (self.directory / manifest.FILE).exists()):
            return
        with manifest.editing(self.directory) as disks:
            filesystem.remove_file(self.path)
            disks.pop(self.name, None)

    def info(self) -> DiskInfo:
        entry = self._entry()
        return DiskInfo(
            format=entry.format,
            virtual_size=entry.virtual_size,
            allocated=filesystem.allocated(self.path),
            backing_path=entry.base_path,
            backing_format=entry.base_format,
        )

    def source(self) -> DiskSource:
        entry = self._entry()
        backing = None
        if entry.base_path and entry.base_format:
            backing = DiskSource(DiskType.FILE, entry.base_format, Path(entry.base_path))
        return DiskSource(DiskType.FILE, entry.format, self.path, backing=backing)

    def extract(self, target: Path, format: DiskFormat, *, compress: bool = False, progress: Progress = SILENT) -> None:
        from cowshed.tools import transfer

        transfer.export(self.source(), target, format, compress=compress, progress=progress)

    def _entry(self) -> ManifestDisk:
        if not self.exists():
            raise DiskNotFound(name=f"{self.name} of instance {self.instance}")
        return manifest.require(self.directory, self.name)

    def _preallocate(self, fd: int, start: int, end: int) -> None:
        """falloc: blocks are reserved; full: they are written, so that nothing is left to do later."""
        if self.reserves:
            filesystem.preallocate(fd, start, end)
        if self.section.preallocation == Preallocation.FULL:
            filesystem.write_holes(fd, start, end)

    @property
    def reserves(self) -> bool:
        """All the room a disk may ever need is taken when it is made."""
        return self.section.preallocation in (Preallocation.FALLOC, Preallocation.FULL)

    def _check_room(self, size: int) -> None:
        """:raises NoSpace: what will be reserved is not free"""
        if self.reserves:
            filesystem.check_space(self.directory, size)


def _whole_sectors(size: int) -> int:
    return -(-size // _SECTOR) * _SECTOR


class FileBackend(Backend):
    """Files in the instances' directories."""

    disk_class: ClassVar[type[FileDisk]]

    def __init__(self, instances: Path, section: DisksSection) -> None:
        self.instances = instances
        self.section = section

    def disk(self, instance: str, name: str) -> FileDisk:
        return self.disk_class(self.instances, self.section, instance, name)

    def disks(self, instance: str) -> Sequence[FileDisk]:
        directory = self.instances / instance
        entries = manifest.load(directory).disks.values()
        disks = [self.disk(instance, entry.name) for entry in entries if entry.backend == self.name]
        return [disk for disk in disks if disk.exists()]

    def capacity(self) -> Capacity:
        place = self.instances
        while not place.exists():
            place = place.parent
        facts = os.statvfs(place)
        total, free = facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize
        return Capacity(total=total, free=free, used=total - facts.f_bfree * facts.f_frsize)
