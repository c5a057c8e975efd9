"""What Flat, Qcow2 and Ploop share: disks in the instance's directory, described by its manifest."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cowshed import log
from cowshed.contract.storage import Backend, Disk
from cowshed.disks import manifest
from cowshed.disks.file import FileBackend
from cowshed.errors import DataCorrupt, DiskNotFound, InvalidRequest
from cowshed.imagebackend.image import Image, uuid_of
from cowshed.imagebackend.models import ImageModel, LocalFileImage
from cowshed.imagebackend.settings import Settings, current
from cowshed.model.disk import DiskFormat, DiskSource, DiskType, ManifestDisk
from cowshed.tools import filesystem, qcow2

_log = log.logger(__name__)


class Local(Image):
    """``<instances>/<uuid>/<disk_name>``, or ``path``."""

    def __init__(
        self,
        instance: Any = None,
        disk_name: str | None = None,
        path: str | None = None,
        disk_info_mapping: Mapping[str, Any] | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        settings = settings or current()
        self.disk_name = disk_name
        super().__init__(
            path or str(path_of(settings, instance, disk_name)),
            "file",
            self.backend_name,
            is_block_dev=False,
            disk_info_mapping=disk_info_mapping,
            settings=settings,
        )
        self._complete()

    def _complete(self) -> None:
        """What one kind knows more of itself."""

    def exists(self) -> bool:
        """A name that exists is a complete disk."""
        return os.path.exists(self.path)

    check_image_exists = exists

    def _get_driver_format(self) -> str:
        entry = manifest.find(Path(self.path).parent, Path(self.path).name)
        return str(entry.format) if entry else self.driver_format

    def get_model(self, connection: Any) -> ImageModel:
        return LocalFileImage(self.path, self.driver_format)

    def _source(self) -> DiskSource:
        if self.exists() and manifest.find(Path(self.path).parent, Path(self.path).name):
            return self._disk().source()
        return DiskSource(DiskType(self.source_type), DiskFormat(self.driver_format), Path(self.path))

    @staticmethod
    def is_file_in_instance_path() -> bool:
        return True

    # --- space ------------------------------------------------------------------------------------

    def _preallocate(self, size: int) -> None:
        if not self.preallocate or not self._can_fallocate() or not os.access(self.path, os.W_OK):
            return
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(fd).st_size >= size:
                os.posix_fallocate(fd, 0, size)
        except OSError as error:
            _log.warning("could not preallocate %s: %s", self.path, error)
        finally:
            os.close(fd)

    def _can_fallocate(self) -> bool:
        """Tried on the file system the disk is on, not once for all of them."""
        if self.can_fallocate is None:
            with tempfile.NamedTemporaryFile(dir=Path(self.path).parent) as scratch:
                try:
                    os.posix_fallocate(scratch.fileno(), 0, 1)
                    self.can_fallocate = True
                except OSError as error:
                    _log.warning("preallocation is not possible at %s: %s", self.path, error)
                    self.can_fallocate = False
        return self.can_fallocate

    can_fallocate: bool | None = None

    # --- the disk below -----------------------------------------------------------------------

    def _place(self) -> Backend:
        return self._backend()

    def _backend(self) -> FileBackend:
        """By the recorded format: an old Flat disk may be a qcow2 file, which is not grown or read as raw."""
        backends = self._settings.backends
        return backends.get(self.driver_format) or backends[self.backend_name]

    def _disk(self) -> Disk:
        path = Path(self.path)
        backend = self._backend()
        return type(backend)(path.parent.parent, backend.section).disk(path.parent.name, path.name)

    def _known_disk(self) -> Disk:
        """The disk, with a line in the manifest also where something else has made the file."""
        path = Path(self.path)
        if not path.exists():
            raise DiskNotFound(name=self.path)
        if manifest.find(path.parent, path.name) is None:
            manifest.record(path.parent, self._described())
        return self._disk()

    def _entry(self) -> ManifestDisk:
        """What the disk is, without writing anything."""
        path = Path(self.path)
        return manifest.find(path.parent, path.name) or self._described()

    def _described(self) -> ManifestDisk:
        """A line for a file we did not make: its size by its format, which is ours to say."""
        path = Path(self.path)
        base: str | None = None
        if self.driver_format == DiskFormat.QCOW2:
            size, base = self._qcow2_facts(path)
        else:
            size = path.stat().st_size
        return ManifestDisk(
            name=path.name,
            backend=self._backend().name,
            format=DiskFormat(self.driver_format),
            location=path.name,
            virtual_size=size,
            base_path=base,
            base_format=DiskFormat.RAW if base else None,
        )

    def _qcow2_facts(self, path: Path) -> tuple[int, str | None]:
        """Size and parent; a parent counts only when it is a base of our cache: a guest may have named it."""
        header = self._header(path)
        if header.backing is None:
            return header.size, None
        parent = Path(os.fsdecode(header.backing))
        if parent.parent != self._settings.cache_directory or not parent.exists():
            raise DataCorrupt(path=path, reason="its parent is not a base of the cache")
        return header.size, str(parent)

    @staticmethod
    def _header(path: Path) -> qcow2.Header:
        """:raises DataCorrupt: the disk is not the qcow2 file that it is recorded to be"""
        fd = filesystem.open_regular(path)
        try:
            return qcow2.read_header(fd)
        except qcow2.QcowError as error:
            raise DataCorrupt(path=path, reason=str(error)) from error
        finally:
            os.close(fd)


def path_of(settings: Settings, instance: Any, disk_name: str | None) -> Path:
    """:raises InvalidRequest: neither a path nor an instance and a disk name were given, or they lead elsewhere"""
    if instance is None or not disk_name:
        raise InvalidRequest(reason="an image needs an instance and a disk name, or a path")
    uuid = uuid_of(instance)
    for what, name in (("UUID of an instance", uuid), ("name of a disk", disk_name)):
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise InvalidRequest(reason=f"{name!r} cannot be the {what}")
    return settings.instances / uuid / disk_name
