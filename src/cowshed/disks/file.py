"""What raw and qcow2 disks share: a file in the instance's directory and its line in the manifest.

A disk exists when both are there. The file comes first, then the manifest; a crash between the
two leaves a file that nobody names, which the next create replaces.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Sequence
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
from cowshed.units import format_size

_SECTOR = 512


class FileDisk(Disk, Importing):
    """``<instances>/<uuid>/<name>``."""

    format: DiskFormat
    backend: ClassVar[str]

    def __init__(self, instances: Path, section: DisksSection, instance: str, name: str) -> None:
        if not name or "/" in name or name.startswith("."):
            raise InvalidRequest(reason=f"{name!r} cannot be the name of a disk")
        self.instance = instance
        self.name = name
        self.section = section
        self.directory = instances / instance
        self.path = self.directory / name

    def exists(self) -> bool:
        return self.path.exists() and manifest.find(self.directory, self.name) is not None

    def create(self, size: int = 0, base: Base | None = None, *, progress: Progress = SILENT) -> None:
        size = self._wanted(size, base)
        self._refuse_existing()
        filesystem.make_directory(self.directory)
        try:
            with filesystem.publish(self.path, replace=True, sync_parent=False) as publication:
                self._fill(publication.fd, publication.path, size, base, progress)
            self._record(size, base)
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
        return -(-size // _SECTOR) * _SECTOR

    def _refuse_existing(self) -> None:
        if self.exists():
            raise NameTaken(kind="disk", name=f"{self.name} of instance {self.instance}")

    @abstractmethod
    def _fill(self, fd: int, path: Path, size: int, base: Base | None, progress: Progress) -> None:
        """Write the disk into the empty file ``fd``, whose temporary name is ``path``."""

    @abstractmethod
    def _parent(self, base: Base | None) -> Base | None:
        """The base that the disk goes on reading, if any."""

    def _record(self, size: int, base: Base | None) -> None:
        parent = self._parent(base)
        manifest.record(
            self.directory,
            ManifestDisk(
                name=self.name,
                backend=self.backend,
                format=self.format,
                location=self.name,
                virtual_size=size,
                base_path=str(parent.path) if parent else None,
                base_format=parent.format if parent else None,
                base_digest=base.digest if base else None,
                image_id=base.image_id if base else "",
            ),
        )

    def import_file(self, path: Path) -> None:
        """Take over a finished raw file of the same file system as this disk's content."""
        size = self._wanted(path.stat().st_size, None)
        self._refuse_existing()
        self._take(path)
        self._record(size, None)

    @abstractmethod
    def _take(self, path: Path) -> None: ...

    def resize(self, size: int) -> None:
        entry = self._entry()
        size = -(-size // _SECTOR) * _SECTOR
        if size < entry.virtual_size:
            raise DiskTooSmall(
                disk=self.name, size=size, needed=entry.virtual_size, hint="a disk can grow, but is never cut"
            )
        if size == entry.virtual_size:
            return
        with filesystem.errors_of(self.path, "resize"):
            self._grow(size)
        self._rerecord(entry, size)

    def _rerecord(self, entry: ManifestDisk, size: int) -> None:
        import dataclasses

        manifest.record(self.directory, dataclasses.replace(entry, virtual_size=size))

    @abstractmethod
    def _grow(self, size: int) -> None: ...

    def delete(self) -> None:
        filesystem.remove_file(self.path)
        manifest.forget(self.directory, self.name)

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
        if not self.path.exists():
            raise DiskNotFound(name=f"{self.name} of instance {self.instance}")
        return manifest.require(self.directory, self.name)

    def _preallocate(self, fd: int, size: int) -> None:
        """falloc: blocks are reserved; full: they are written, so that nothing is left to do later."""
        kind = Preallocation(self.section.preallocation)
        if kind in (Preallocation.FALLOC, Preallocation.FULL):
            filesystem.check_space(self.directory, size - os.fstat(fd).st_blocks * 512)
            filesystem.preallocate(fd, size)
        if kind == Preallocation.FULL:
            filesystem.write_holes(fd, size)


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
        return [self.disk(instance, entry.name) for entry in entries if entry.backend == self.name]

    def capacity(self) -> Capacity:
        place = self.instances
        while not place.exists():
            place = place.parent
        facts = os.statvfs(place)
        total, free = facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize
        return Capacity(total=total, free=free, used=total - facts.f_bfree * facts.f_frsize)
