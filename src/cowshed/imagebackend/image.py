"""Image: the base class; what every kind of disk can do through the classic API."""

from __future__ import annotations

import errno
import os
import shutil
from abc import abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, NoReturn

from cowshed import log
from cowshed.contract.storage import Backend, Disk, Importing, Snapshotting
from cowshed.disks import manifest
from cowshed.errors import (
    DiskNotFound,
    DiskTooSmall,
    ImageRejected,
    InvalidRequest,
    NameTaken,
    NotFound,
    SnapshotNotFound,
    UnsupportedOperation,
)
from cowshed.imagebackend import info
from cowshed.imagebackend.models import ImageModel
from cowshed.imagebackend.settings import Settings, current
from cowshed.imagebackend.shown import Shown
from cowshed.model.disk import Base, DiskFormat, ManifestDisk, Preallocation
from cowshed.tools import filesystem, locks
from cowshed.tools import format as formats
from cowshed.units import format_size

_log = log.logger(__name__)

Fetch = Callable[..., Any]
KERNELS: Mapping[str, DiskFormat] = {"kernel": DiskFormat.AKI, "ramdisk": DiskFormat.ARI}


def uuid_of(instance: Any) -> str:
    """Of an instance object, a mapping, or a UUID as text."""
    if isinstance(instance, str):
        return instance
    uuid = instance["uuid"] if isinstance(instance, Mapping) else instance.uuid
    return str(uuid)


class Image(Shown):
    """One disk of one instance. Making one does no I/O.

    :param path: what libvirt calls the disk
    :param source_type: libvirt's disk type, ``file``
    :param driver_format: ``raw`` or ``qcow2``
    :param disk_info_mapping: ``bus``, ``dev``, ``type`` of the disk, for :meth:`libvirt_info`
    """

    SUPPORTS_CLONE: ClassVar[bool] = False
    SUPPORTS_LUKS: ClassVar[bool] = False
    backend_name: ClassVar[str]

    def __init__(
        self,
        path: str | Path,
        source_type: str,
        driver_format: str,
        is_block_dev: bool = False,
        disk_info_mapping: Mapping[str, Any] | None = None,
        *,
        settings: Settings | None = None,
    ) -> None:
        self._settings = settings or current()
        section = self._settings.config.disks
        self.path = str(path)
        self.source_type = source_type
        self.driver_format = driver_format
        self.is_block_dev = is_block_dev
        self.disk_info_mapping = disk_info_mapping
        self.discard_mode: str | None = section.discard
        self.preallocate = section.preallocation in (Preallocation.FALLOC, Preallocation.FULL)
        self.driver_io = section.io or ("native" if self.preallocate else None)
        self.disk_info_path: str | None = str(Path(self.path).parent / info.FILE)
        self.lock_path = str(self._settings.locks)

    # --- create -------------------------------------------------------------------------------

    @abstractmethod
    def create_image(
        self, prepare_template: Fetch, base: str, size: int | None, *args: Any, safe: bool = False, **kwargs: Any
    ) -> None:
        """Make the disk from the cache file ``base``, ``size`` bytes large; an existing disk is kept.

        :param prepare_template: called with ``target=`` and the other arguments to make what is missing
        :param safe: the template is made by us, not an image from outside
        :raises DiskTooSmall: before anything is made
        """

    def cache(
        self,
        fetch_func: Fetch,
        filename: str,
        size: int | None = None,
        *args: Any,
        safe: bool = False,
        **kwargs: Any,
    ) -> None:
        """Have the disk, and the base it comes from, ready.

        ``fetch_func`` is called with ``target=`` a path to write to, only when something is missing,
        and by one caller at a time for each ``filename``; its target is published when it is complete.

        :param filename: name of the base in the cache, such as the SHA-1 of the image's id
        :param size: bytes; None: the template's
        """
        base = str(self._settings.cache_directory / filename)
        filesystem.make_directory(self._settings.cache_directory)

        def prepare(*more: Any, target: str, **named: Any) -> None:
            if target == base:
                self._fetch_base(fetch_func, filename, *more, **named)
            else:
                self._fetch_disk(fetch_func, filename, *more, **named)

        if not self.exists() or not os.path.exists(base):
            self.create_image(prepare, base, size, *args, safe=safe, **kwargs)
        if size and self.exists():
            if size > self.get_disk_size(self.path):
                self.resize_image(size)
            self._preallocate(size)

    def _fetch_base(self, fetch_func: Fetch, filename: str, *args: Any, **kwargs: Any) -> None:
        self._settings.cache.make(
            filename,
            lambda target: fetch_func(*args, target=str(target), **kwargs),
            format=KERNELS.get(Path(self.path).name),
            image_id=str(kwargs.get("image_id") or ""),
        )

    def _fetch_disk(self, fetch_func: Fetch, filename: str, *args: Any, **kwargs: Any) -> None:
        """Into a folder of its own first: a crash leaves nothing that looks like a disk."""
        path = Path(self.path)
        filesystem.make_directory(path.parent)
        with locks.lock(Path(self.lock_path) / filename, timeout=3600, what=filename):
            if self.exists():
                return
            folder = path.parent / f".fetch-{path.name}.{filename}"
            shutil.rmtree(folder, ignore_errors=True)  # of a killed fetch; a live one would hold the lock
            folder.mkdir(mode=0o700)
            try:
                fetch_func(*args, target=str(folder / path.name), **kwargs)
                if not (folder / path.name).exists():
                    raise NotFound(kind="fetched file", name=folder / path.name)
                self._adopt(folder / path.name)
            finally:
                shutil.rmtree(folder, ignore_errors=True)

    def _adopt(self, finished: Path) -> None:
        """Make the finished raw file this disk."""
        disk = self._disk()
        assert isinstance(disk, Importing)
        disk.import_file(finished)

    @abstractmethod
    def _preallocate(self, size: int) -> None:
        """Have ``size`` bytes of space, where that is asked for."""

    # --- look ---------------------------------------------------------------------------------

    @abstractmethod
    def exists(self) -> bool:
        """A name that exists is a complete disk."""

    def get_disk_size(self, name: str) -> int:
        """Virtual size in bytes of the disk or base at path ``name``.

        :raises DiskNotFound: :raises ImageRejected: it cannot be told safely
        """
        path = Path(name)
        if not path.exists():
            raise DiskNotFound(name=name)
        if name == self.path:
            return self._entry().virtual_size
        if path.parent == self._settings.cache_directory and (base := self._settings.cache.lookup(path.name)):
            return base.virtual_size
        if entry := manifest.find(path.parent, path.name):
            return entry.virtual_size
        return self._inspected(path).virtual_size

    def _inspected(self, path: Path) -> formats.Inspection:
        with filesystem.errors_of(path, "read"):
            fd = filesystem.open_regular(path)
        try:
            return formats.inspect(fd, image=str(path), allowed=tuple(DiskFormat))
        finally:
            os.close(fd)

    def verify_base_size(self, base: str, size: int | None, base_size: int = 0) -> None:
        """:raises DiskTooSmall: ``size`` bytes do not hold the base; None is never too small"""
        if size is None:
            return
        if size and not base_size:
            base_size = self.get_disk_size(base)
        if size < base_size:
            raise DiskTooSmall(
                disk=self.path, size=size, needed=base_size, hint=f"ask for at least {format_size(base_size)}"
            )

    # --- change -------------------------------------------------------------------------------

    def resize_image(self, size: int) -> None:
        """Grow to ``size`` bytes; a smaller size is ignored, a disk is never cut."""
        disk = self._known_disk()
        if size > disk.info().virtual_size:
            disk.resize(size)

    def snapshot_extract(self, target: str, out_format: str) -> None:
        """Write the whole content to the standalone file ``target``; the disk must not be in use.

        An older ``target`` is replaced when the new one is complete.

        :raises InvalidRequest: ``out_format`` cannot be written, or ``target`` is the disk itself
        """
        path, disk = Path(target), self._known_disk()
        if path.exists() and os.path.exists(self.path) and path.samefile(self.path):
            raise InvalidRequest(reason=f"{target} is the disk itself")
        if out_format not in (DiskFormat.RAW, DiskFormat.QCOW2):
            raise InvalidRequest(reason=f"a disk cannot be written as {out_format}", hint="raw or qcow2")
        part = path.with_name(f".{path.name}.extracted")
        filesystem.remove_file(part)
        try:
            disk.extract(part, DiskFormat(out_format))
            with filesystem.errors_of(path, "write"):
                filesystem.rename(part, path, replace=True)
            filesystem.sync_directory(path.parent)
        finally:
            filesystem.remove_file(part)

    def flatten(self) -> None:
        self._cannot("flatten", "only storage that clones in place needs it")

    def clone(self, context: Any, image_id_or_uri: str) -> None:
        """:raises ImageRejected: always; files are made from the cache"""
        raise ImageRejected(image=image_id_or_uri, reason=f"{self.backend_name} disks cannot be cloned from a location")

    def direct_snapshot(
        self, context: Any, snapshot_name: str, image_format: str, image_id: str, base_image_id: str
    ) -> str:
        self._cannot("make a direct snapshot", "the image service cannot reach local files")

    def cleanup_direct_snapshot(
        self, location: Mapping[str, Any] | None, also_destroy_volume: bool = False, ignore_errors: bool = False
    ) -> None:
        """Nothing was made, so nothing is left."""

    def create_snap(self, name: str) -> None:
        """Keep the present content and size, where that costs nothing; else the classic API says nothing.

        See :meth:`rollback_to_snap`.
        """
        if self._snapshots_are_instant():
            self._snapshotting().take(name)
        else:
            _log.info("%s would have to be copied for snapshot %s; it is not taken", self.path, name)

    def remove_snap(self, name: str, ignore_errors: bool = False) -> None:
        """A missing one is worth a warning, unless ``ignore_errors``."""
        try:
            if self.exists():
                self._snapshotting().remove(name)
        except SnapshotNotFound as error:
            if not ignore_errors:
                _log.warning("%s", error)

    def rollback_to_snap(self, name: str) -> None:
        """:raises SnapshotNotFound: doing nothing here would lose the old content silently"""
        self._snapshotting().roll_back(name)

    def _snapshots_are_instant(self) -> bool:
        return self._place().traits.instant_snapshot

    def _snapshotting(self) -> Snapshotting:
        disk = self._known_disk()
        if not isinstance(disk, Snapshotting):
            self._cannot("keep snapshots", "its storage has none")
        return disk

    def import_file(self, instance: Any, local_file: str, remote_name: str) -> None:
        """Local files are in the store already."""

    def _cannot(self, operation: str, reason: str) -> NoReturn:
        raise UnsupportedOperation(subject=f"backend {self.backend_name}", operation=operation, reason=reason)

    # --- formats ------------------------------------------------------------------------------

    def resolve_driver_format(self) -> str:
        """The disk's format from ``disk.info``, recorded there at the first call.

        Without a record it is what the manifest says, else what this backend makes. It is never
        probed: the bytes belong to the guest.

        :raises DataCorrupt: the record cannot be trusted
        """
        if self.disk_info_path is None:
            return self._get_driver_format()
        path = Path(self.disk_info_path)
        if found := info.read(path).get(self.path):
            return found
        chosen = self._get_driver_format()
        info.record(path, Path(self.path), chosen)
        return chosen

    @abstractmethod
    def _get_driver_format(self) -> str:
        """Where nothing is recorded."""

    @abstractmethod
    def get_model(self, connection: Any) -> ImageModel: ...

    # --- facts --------------------------------------------------------------------------------

    @staticmethod
    def is_shared_block_storage() -> bool:
        return False

    @staticmethod
    @abstractmethod
    def is_file_in_instance_path() -> bool: ...

    def _get_lock_name(self, base: str) -> str:
        return os.path.basename(base)

    # --- the disk below -----------------------------------------------------------------------

    @abstractmethod
    def _place(self) -> Backend:
        """The storage it is on."""

    @abstractmethod
    def _disk(self) -> Disk:
        """Its handle; no I/O."""

    @abstractmethod
    def _known_disk(self) -> Disk:
        """The handle of a disk that is there. :raises DiskNotFound:"""

    @abstractmethod
    def _entry(self) -> ManifestDisk:
        """What the disk is, without writing anything."""

    def _create(self, size: int | None, base: Base) -> None:
        """Made by somebody else in the meantime is as good: a name that exists is complete."""
        try:
            self._disk().create(size or 0, base)
        except NameTaken:
            if not self.exists():
                raise

    # --- bases --------------------------------------------------------------------------------

    def _base(self, base: str) -> Base:
        """The base at path ``base``: by its record, or inspected where something else has put it there."""
        path = Path(base)
        if path.parent == self._settings.cache_directory and (known := self._settings.cache.lookup(path.name)):
            return known
        found = self._inspected(path)
        kept = DiskFormat.RAW if found.format == DiskFormat.ISO else found.format
        return Base(path, kept, found.virtual_size)

    def _touch(self, base: str) -> None:
        """It was used now; a cache that is read-only here (NFS) is used all the same."""
        try:
            os.utime(base)
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            _log.warning("could not touch %s: %s", base, error)
