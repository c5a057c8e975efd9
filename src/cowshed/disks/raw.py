"""raw: a sparse file that holds everything. From a base: a reflink where the file system can.

Encrypted, it is a LUKS container of QEMU: the content of a base is written whole, holes and all, and
what has never been written reads as noise.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import Traits
from cowshed.disks.copies import CopiedSnapshots
from cowshed.disks.encryption import Sealed
from cowshed.disks.file import FileBackend
from cowshed.errors import InvalidRequest
from cowshed.model.disk import Base, DiskFormat, DiskSource, DiskType, ManifestDisk
from cowshed.tools import filesystem, luks, luks_header, sparse
from cowshed.tools.filesystem import Publication


class RawDisk(CopiedSnapshots):
    format = DiskFormat.RAW
    backend = "raw"

    def _check_base(self, base: Base) -> None:
        if base.format != DiskFormat.RAW:
            raise InvalidRequest(reason=f"a raw disk needs a raw base, not {base.format}")

    def _fill(self, new: Publication, size: int, base: Base | None, sealed: Sealed | None, progress: Progress) -> None:
        self._check_room(size)
        if sealed:
            if base:  # with its holes: every sector up to its end is written
                filesystem.check_space(self.directory, base.virtual_size)
            self._seal(new, size, sealed, base.path if base else None, progress)
            return
        if base:
            self._copy(base.path, new.fd, progress)
        os.ftruncate(new.fd, size)
        self._preallocate(new.fd, 0, size)

    def _seal(
        self, new: Publication, size: int, sealed: Sealed, content: Path | None, progress: Progress = SILENT
    ) -> None:
        """A LUKS container of ``size`` bytes in ``new``, with what the raw file ``content`` holds."""
        luks.create_raw(new.fd, size, sealed.key, sealed.encryption.parameters)
        if content:
            source = DiskSource(DiskType.FILE, DiskFormat.RAW, content)
            target = DiskSource(DiskType.FILE, self.format, new.path, encryption=sealed.encryption)
            luks.copy(source, target, sealed.find, progress=progress, size=size)
        self._preallocate(new.fd, 0, os.fstat(new.fd).st_size)

    def _fill_with(self, new: Publication, size: int, write: Callable[[Path], object], sealed: Sealed | None) -> None:
        self._check_room(size)
        if sealed:
            with filesystem.secret_scratch(self.directory, size) as scratch:
                write(scratch.path)
                self._fill_from(new, size, scratch.path, sealed)
            return
        os.ftruncate(new.fd, size)
        write(new.path)
        self._preallocate(new.fd, 0, size)

    def _fill_from(self, new: Publication, size: int, path: Path, sealed: Sealed | None) -> None:
        assert sealed is not None
        filesystem.check_space(self.directory, size)  # holes are written too
        self._seal(new, size, sealed, path)

    def _take(self, path: Path, size: int) -> None:
        with filesystem.errors_of(path, "take over"):
            fd = filesystem.open_regular(path, os.O_RDWR)
            try:
                if path.stat().st_dev != self.directory.stat().st_dev:
                    with filesystem.publish(self.path, unnamed=True) as new:
                        sparse.copy(fd, new.fd)
                        os.ftruncate(new.fd, size)
                    path.unlink()
                    return
                os.fchmod(fd, 0o600)
                os.ftruncate(fd, size)
                os.fsync(fd)
                filesystem.rename(path, self.path)
                filesystem.sync_directory(self.directory)
            finally:
                os.close(fd)

    def _grow(self, entry: ManifestDisk, size: int) -> None:
        self._check_room(size - entry.virtual_size)
        fd = filesystem.open_regular(self.path, os.O_RDWR)
        try:
            there = os.fstat(fd).st_size
            start = luks_header.payload_offset(fd, self.path) if entry.encryption else 0
            try:
                if there < start + size:
                    os.ftruncate(fd, start + size)
                self._preallocate(fd, start + entry.virtual_size, start + size)
                os.fsync(fd)
            except BaseException:
                if there < start + size:
                    os.ftruncate(fd, there)
                raise
        finally:
            os.close(fd)


class RawBackend(FileBackend):
    name = "raw"
    disk_class = RawDisk

    @property
    def traits(self) -> Traits:
        return Traits(
            name=self.name,
            base_format=DiskFormat.RAW,
            disk_format=DiskFormat.RAW,
            instant_clone=self.shares,
            snapshots=True,
            instant_snapshot=self.shares,
            preallocates=True,
            encrypts=self.keys is not None,
            importing=True,
        )
