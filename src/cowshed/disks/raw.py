"""raw: a sparse file that holds everything. From a base: a reflink where the file system can."""

from __future__ import annotations

import os
from pathlib import Path

from cowshed.contract.callbacks import Progress
from cowshed.contract.storage import Traits
from cowshed.disks.file import FileBackend, FileDisk
from cowshed.errors import InvalidRequest
from cowshed.model.disk import Base, DiskFormat
from cowshed.tools import filesystem


class RawDisk(FileDisk):
    format = DiskFormat.RAW
    backend = "raw"

    def _fill(self, fd: int, path: Path, size: int, base: Base | None, progress: Progress) -> None:
        if base:
            self._copy(base, fd, progress)
        os.ftruncate(fd, size)
        self._preallocate(fd, size)

    def _copy(self, base: Base, target: int, progress: Progress) -> None:
        if base.format != DiskFormat.RAW:
            raise InvalidRequest(reason=f"a raw disk needs a raw base, not {base.format}")
        with filesystem.errors_of(base.path, "read"):
            source = os.open(base.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if filesystem.reflink(source, target):
                return
            data = os.fstat(source).st_blocks * 512
            filesystem.check_space(self.directory, data)
            progress.phase("copy", data)
            filesystem.copy_sparse(source, target, progress=progress)
        finally:
            os.close(source)

    def _parent(self, base: Base | None) -> Base | None:
        return None

    def _take(self, path: Path) -> None:
        with filesystem.errors_of(path, "take over"):
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                os.fchmod(fd, 0o600)
                os.fsync(fd)
            finally:
                os.close(fd)
            filesystem.rename(path, self.path, replace=True)

    def _grow(self, size: int) -> None:
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            if os.fstat(fd).st_size < size:
                os.ftruncate(fd, size)
            self._preallocate(fd, size)
            os.fsync(fd)
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
            instant_clone=filesystem.can_reflink(self.instances),
            preallocates=True,
            importing=True,
        )
