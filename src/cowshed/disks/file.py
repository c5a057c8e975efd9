"""What raw and qcow2 disks share: a file in the instance's directory."""

from __future__ import annotations

import os
import re
import stat
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import ClassVar, Final

from cowshed import clock
from cowshed.config import DisksSection
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import Backend, Importing, KeySource
from cowshed.disks import manifest
from cowshed.disks.encryption import Sealed, extract, key_of, new_encryption, new_key, require_source
from cowshed.disks.recorded import recorded
from cowshed.disks.snapshots import RecordedSnapshots
from cowshed.errors import CowshedError, NameTaken
from cowshed.model.disk import (
    Base,
    Capacity,
    DiskFormat,
    DiskInfo,
    DiskSource,
    DiskType,
    EncryptionFormat,
    ManifestDisk,
    Preallocation,
)
from cowshed.tools import filesystem, luks_header, reflink, sparse
from cowshed.tools.filesystem import Publication

RESERVING: Final = (Preallocation.FALLOC, Preallocation.FULL)
_ABANDONED: Final = 86400.0  # seconds since somebody wrote to it
_UNFINISHED: Final = re.compile(rf"\..+\.[0-9a-f]{{12}}{re.escape(filesystem.PART)}")


class FileDisk(RecordedSnapshots, Importing):
    """``<instances>/<uuid>/<name>``; one that was moved here from another backend has the name in the manifest."""

    def __init__(
        self, instances: Path, section: DisksSection, instance: str, name: str, keys: KeySource | None = None
    ) -> None:
        super().__init__(instances, instance, name)
        self.section = section
        self.keys = keys

    @property
    def path(self) -> Path:
        """Where it is, or will be when it is made."""
        return self.directory / self.location()

    @property
    def data(self) -> Path:
        """The file that a guest opens."""
        return self.path

    def _new_location(self) -> str:
        return self.name

    def _shown(self, entry: ManifestDisk) -> Path:
        return self.path

    def exists(self) -> bool:
        return os.path.lexists(self.path)

    def create(
        self, size: int = 0, base: Base | None = None, *, encrypt: bool = False, progress: Progress = SILENT
    ) -> None:
        size = self._wanted(size, base)
        if base:
            self._check_base(base)
        self._make(size, base, lambda new, sealed: self._fill(new, size, base, sealed, progress), encrypt=encrypt)

    def create_filled(self, size: int, write: Callable[[Path], object], *, encrypt: bool = False) -> None:
        """Make the disk with what ``write`` puts into a raw file of ``size`` zero bytes.

        :raises NameTaken: :raises NoSpace: as :meth:`create`
        """
        size = self._wanted(size, None)
        self._make(size, None, lambda new, sealed: self._fill_with(new, size, write, sealed), encrypt=encrypt)

    def _make(
        self, size: int, base: Base | None, fill: Callable[[Publication, Sealed | None], None], *, encrypt: bool
    ) -> None:
        keys = require_source(self.keys, self.backend) if encrypt else None
        self._refuse_existing()
        unsynced = filesystem.make_directory_unsynced(self.directory)
        try:
            place = self.directory / self._new_location()
            with self._sealed(size, base, keys) as sealed, self._publishing(place) as new:
                fill(new, sealed)
                # Begun now, the blocks of the disk go into the same journal commit as the manifest's.
                sparse.start_writing(new.fd, 0, 0)
                described = self._described(size, base, sealed.encryption if sealed else None)
                with manifest.recording(self.directory, described):
                    new.commit()
                    self._sync(unsynced)
        except BaseException:
            if unsynced:
                with suppress(OSError):
                    self.directory.rmdir()
            raise

    def _publishing(self, place: Path) -> AbstractContextManager[Publication]:
        return filesystem.publish(place, unnamed=True)

    def _remove(self) -> None:
        """Already gone is success."""
        filesystem.remove_file(self.path)

    @contextmanager
    def _sealed(self, size: int, base: Base | None, keys: KeySource | None) -> Iterator[Sealed | None]:
        """The key of the disk that the block makes, if it is to have one."""
        if keys is None:
            yield None
            return
        encryption = new_encryption(EncryptionFormat.LUKS, luks_header.parameters(self.section.luks_iterations))
        described = self._described(size, base, encryption)
        with manifest.announcing(self.directory, described, taken=self.exists), new_key(keys, encryption) as sealed:
            yield sealed

    def _sync(self, places: Sequence[Path]) -> None:
        """The last step; the disk that was given its name just now goes again if it fails."""
        try:
            for place in places:
                filesystem.sync_directory(place)
        except BaseException:
            self._remove()
            raise

    @abstractmethod
    def _check_base(self, base: Base) -> None:
        """Before anything is made. :raises InvalidRequest: this kind of disk cannot have this base"""

    @abstractmethod
    def _fill(self, new: Publication, size: int, base: Base | None, sealed: Sealed | None, progress: Progress) -> None:
        """Write the disk into the empty file ``new``, encrypted if it is ``sealed``."""

    @abstractmethod
    def _fill_with(self, new: Publication, size: int, write: Callable[[Path], object], sealed: Sealed | None) -> None:
        """Write a disk with what ``write`` makes of a raw file into the empty file ``new``."""

    def import_file(self, path: Path, *, encrypt: bool = False) -> None:
        with filesystem.errors_of(path, "take over"):
            size = self._wanted(path.stat().st_size, None)
        self._refuse_existing()
        if encrypt:
            self._make(size, None, lambda new, sealed: self._fill_from(new, size, path, sealed), encrypt=True)
            filesystem.remove_file(path)
            return
        filesystem.make_directory(self.directory)
        with manifest.recording(self.directory, self._described(size, None)):
            try:
                self._take(path, size)
            except NameTaken:
                raise
            except BaseException:
                self._give_back(path)
                raise

    def _give_back(self, path: Path) -> None:
        """What was taken over, or copied, is the caller's again, and no disk."""
        with suppress(OSError, CowshedError):
            if os.path.lexists(path):
                filesystem.remove_file(self.path)
            else:
                filesystem.rename(self.path, path)

    @abstractmethod
    def _fill_from(self, new: Publication, size: int, path: Path, sealed: Sealed | None) -> None:
        """Write the content of the raw file ``path`` into the empty file ``new``, encrypted."""

    @abstractmethod
    def _take(self, path: Path, size: int) -> None:
        """Let the content of ``path`` appear, durably, at ``self.path``; then ``path`` is not needed."""

    def take_name(self) -> None:
        """A disk that was made under another name gets the file name that disks have, once that is free.

        It has both names for a moment; killed then, the next call ends it. The disk must not be in use.
        """
        usual = self.directory / self._new_location()
        with manifest.editing(self.directory) as disks:
            entry = disks.get(self.name)
            if entry is None or entry.backend != self.backend:
                return
            made = self.directory / entry.location
            if made != usual and made.is_file() and _linked(made, usual):
                filesystem.sync_directory(self.directory)
                disks[self.name] = replace(entry, location=usual.name)
        if manifest.require(self.directory, self.name).location == usual.name:
            self._drop_names_beside(usual)

    def _drop_names_beside(self, usual: Path) -> None:
        """Other names of the same file."""
        if usual.is_file() and usual.stat().st_nlink > 1:
            for path in self.directory.glob(f"{self.name}.*"):
                if path.is_file() and path.samefile(usual):
                    filesystem.remove_file(path)

    def delete(self) -> None:
        if not (self.exists() or (self.directory / manifest.FILE).exists()):
            return
        with manifest.editing(self.directory) as disks:
            self._remove()
            self._remove_kept()
            entry = disks.get(self.name)
            if entry and entry.encryption and self.keys:
                # Killed before the line goes, we are called again; the other way round the key would stay for ever.
                filesystem.sync_directory(self.directory)
                self.keys.delete(entry.encryption.key_id)
            disks.pop(self.name, None)

    def _allocated(self, entry: ManifestDisk) -> int:
        return sparse.allocated(self.path)

    def source(self) -> DiskSource:
        return self._source(self._entry())

    def _source(self, entry: ManifestDisk) -> DiskSource:
        backing = None
        if entry.base_path and entry.base_format:
            backing = DiskSource(DiskType.FILE, entry.base_format, Path(entry.base_path))
        return DiskSource(DiskType.FILE, entry.format, self.data, backing=backing, encryption=entry.encryption)

    def activate(self) -> None:
        entry = self._entry()
        if entry.encryption:
            self._key(entry.encryption.key_id)

    def _key(self, key_id: str) -> bytes:
        return key_of(self.keys, key_id)

    def extract(
        self,
        target: Path,
        format: DiskFormat,
        *,
        compress: bool = False,
        plaintext: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        source = self.source()
        if source.encryption:
            size = self.info().virtual_size
            extract(source, size, target, format, self._key, compress=compress, plaintext=plaintext, progress=progress)
            return
        from cowshed.tools import transfer

        transfer.export(source, target, format, compress=compress, progress=progress)

    def _preallocate(self, fd: int, start: int, end: int) -> None:
        """falloc: blocks are reserved; full: they are written, so that nothing is left to do later."""
        if self.reserves:
            sparse.preallocate(fd, start, end)
        if self.section.preallocation == Preallocation.FULL:
            sparse.write_holes(fd, start, end)

    @property
    def reserves(self) -> bool:
        """All the room a disk may ever need is taken when it is made."""
        return self.section.preallocation in RESERVING

    def _check_room(self, size: int) -> None:
        """:raises NoSpace: what will be reserved is not free"""
        if self.reserves:
            filesystem.check_space(self.directory, size)


def _linked(path: Path, name: Path) -> bool:
    """Is ``name`` a name of the file ``path`` now?"""
    try:
        os.link(path, name)
    except FileExistsError:
        return name.samefile(path)
    except OSError:  # the file system knows no second names
        return False
    return True


class FileBackend(Backend):
    """Files in the instances' directories."""

    disk_class: ClassVar[type[FileDisk]]

    def __init__(self, instances: Path, section: DisksSection, keys: KeySource | None = None) -> None:
        self.instances = instances
        self.section = section
        self.keys = keys

    @property
    def shares(self) -> bool:
        """Copies share their blocks: the file system can, and none have to be reserved for each."""
        return self.section.preallocation not in RESERVING and reflink.possible(self.instances)

    def disk(self, instance: str, name: str) -> FileDisk:
        return self.disk_class(self.instances, self.section, instance, name, self.keys)

    def disks(self, instance: str) -> Sequence[FileDisk]:
        disks = [self.disk(instance, entry.name) for entry in recorded(self.instances, instance, self.name)]
        return [disk for disk in disks if disk.exists()]

    def clean(self) -> None:
        """What killed processes were writing, where a file needs a name meanwhile (NFS, CephFS)."""
        now = clock.current().time()
        for left in self.instances.glob(f"*/.*{filesystem.PART}"):
            with suppress(FileNotFoundError):
                facts = left.lstat()
                if (
                    _UNFINISHED.fullmatch(left.name)
                    and stat.S_ISREG(facts.st_mode)
                    and now - facts.st_mtime > _ABANDONED
                ):
                    filesystem.remove_file(left)

    def measure(self, instance: str, entry: ManifestDisk) -> DiskInfo | None:
        try:
            facts = os.lstat(f"{self.instances}/{instance}/{entry.location}")
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(facts.st_mode):
            return super().measure(instance, entry)
        return DiskInfo(
            format=entry.format,
            virtual_size=entry.virtual_size,
            allocated=facts.st_blocks * 512,
            backing_path=entry.base_path,
            backing_format=entry.base_format,
            encryption=entry.encryption,
        )

    def capacity(self) -> Capacity:
        facts = os.statvfs(filesystem.nearest(self.instances))
        total, free = facts.f_blocks * facts.f_frsize, facts.f_bavail * facts.f_frsize
        return Capacity(total=total, free=free, used=total - facts.f_bfree * facts.f_frsize)
