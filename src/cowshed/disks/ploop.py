"""ploop: a directory with a data file, ``root.hds``, and a ``DiskDescriptor.xml`` that says what it is.

The data file holds everything as it is (``raw``: a reflink of the base where the file system can), or
a table and the clusters in use (``expanded``). QEMU opens the data file alone, so there is never a
chain of deltas: snapshots are directories of their own.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import Traits
from cowshed.disks import manifest
from cowshed.disks.copies import RESTORED
from cowshed.disks.file import FileBackend
from cowshed.disks.ploop_content import KINDS, PloopContent, checked, configured
from cowshed.disks.snapshots import Step
from cowshed.errors import Busy, DataCorrupt, InvalidRequest, NotFound
from cowshed.model.disk import Base, DiskFormat, DiskSource, Encryption, ManifestDisk
from cowshed.tools import filesystem, ploop, qemu_img, qemu_lock
from cowshed.tools.filesystem import Publication

_LARGEST = 1 << 20  # bytes of a descriptor
_DELETED = ".deleted"


class PloopDisk(PloopContent):
    """``<instances>/<uuid>/<name>/``."""

    backend = "ploop"

    @property
    def format(self) -> DiskFormat:  # type: ignore[override]
        """Of the data file as QEMU opens it: what was recorded when it was made, whatever is configured now."""
        entry = manifest.find(self.directory, self.name)
        return entry.format if entry and entry.backend == self.backend and self.exists() else self._configured

    @property
    def data(self) -> Path:
        return self.path / ploop.DATA

    def _described(self, size: int, base: Base | None, encryption: Encryption | None = None) -> ManifestDisk:
        return replace(super()._described(size, base, encryption), format=self._configured)

    # --- it comes into being --------------------------------------------------------------------

    def create(
        self, size: int = 0, base: Base | None = None, *, encrypt: bool = False, progress: Progress = SILENT
    ) -> None:
        self._refuse_encryption(encrypt)
        super().create(size, base, progress=progress)

    def create_filled(self, size: int, write: Callable[[Path], object], *, encrypt: bool = False) -> None:
        self._refuse_encryption(encrypt)
        super().create_filled(size, write)

    @contextmanager
    def _publishing(self, place: Path) -> Iterator[Publication]:
        with filesystem.errors_of(place, "write"):
            with manifest.locked(self.directory):
                ploop.sweep(place)
                folder = self._folder(place, self._configured)
            try:
                yield folder
                folder.commit()
            finally:
                folder.close()

    def _folder(self, place: Path, format: DiskFormat) -> ploop.Folder:
        return ploop.Folder(place, lambda fd: self._descriptor_of(fd, format))

    def _descriptor_of(self, fd: int, format: DiskFormat) -> bytes:
        """What is written of the data file ``fd``."""
        expanded = format == DiskFormat.PLOOP
        size = ploop.read_header(fd).size if expanded else os.fstat(fd).st_size
        delta = ploop.Delta(ploop.TOP, KINDS[format], ploop.DATA)
        return ploop.render(ploop.Descriptor(size, (delta,), preallocated=expanded and self.reserves))

    def import_file(self, path: Path, *, encrypt: bool = False) -> None:
        self._refuse_encryption(encrypt)
        super().import_file(path)

    def _take(self, path: Path, size: int) -> None:
        with filesystem.errors_of(self.path, "write"):
            folder = self._folder(self.path, self._configured)
            try:
                self._fill_from(folder, size, path, None)
                folder.commit()
            finally:
                folder.close()
        filesystem.remove_file(path)

    # --- its life -------------------------------------------------------------------------------

    def activate(self) -> None:
        """Descriptor and data file are looked at, and what a killed QEMU or resize left is put right.

        :raises DataCorrupt: they are not what the manifest says
        """
        entry = self._entry()
        described = self._descriptor(entry)
        if qemu_lock.held(self.data):
            return  # in use: nothing is looked at, still less repaired
        with filesystem.errors_of(self.data, "open"):
            fd = filesystem.open_regular(self.data)
        try:
            marked, size = self._examined(fd, entry)
        finally:
            os.close(fd)
        if marked:
            with suppress(Busy):  # a guest came first
                qemu_img.repair(self.data, DiskFormat.PLOOP)
        if described.size != size:
            self._describe(entry)

    def _examined(self, fd: int, entry: ManifestDisk) -> tuple[bool, int]:
        """(whether it is marked as open, bytes a guest sees)"""
        if entry.format == DiskFormat.RAW:
            marked, size = False, os.fstat(fd).st_size
        else:
            header = checked(fd, self.data)
            marked, size = header.in_use, header.size
        if size < entry.virtual_size:
            raise DataCorrupt(
                path=self.data, reason=f"it has {size} bytes; the disk has {entry.virtual_size} (is it cut short?)"
            )
        return marked, size

    def _descriptor(self, entry: ManifestDisk) -> ploop.Descriptor:
        """:raises DataCorrupt: it is broken, or describes something else"""
        path = self.path / ploop.FILE
        try:
            described = ploop.parse(_read(path))
            present = described.present
        except ploop.PloopError as error:
            raise DataCorrupt(path=path, reason=str(error)) from error
        if present.file != ploop.DATA or present.kind != KINDS[entry.format]:
            raise DataCorrupt(
                path=path,
                reason=f"it names {present.file} of type {present.kind}; "
                f"the disk is {ploop.DATA} of type {KINDS[entry.format]}",
            )
        return described

    def _describe(self, entry: ManifestDisk) -> None:
        """Write the descriptor anew for the data file as it is."""
        fd = filesystem.open_regular(self.data)
        try:
            text = self._descriptor_of(fd, entry.format)
        finally:
            os.close(fd)
        filesystem.write_atomically(self.path / ploop.FILE, text, mode=0o644)

    def _grow(self, entry: ManifestDisk, size: int) -> None:
        self._check_room(size - entry.virtual_size)
        fd = filesystem.open_regular(self.data, os.O_RDWR)
        try:
            if entry.format == DiskFormat.RAW:
                self._grow_plain(fd, entry, size)
            else:
                self._grow_expanded(fd, size)
        finally:
            os.close(fd)
        self._describe(entry)

    def _grow_plain(self, fd: int, entry: ManifestDisk, size: int) -> None:
        there = os.fstat(fd).st_size
        try:
            if there < size:
                os.ftruncate(fd, size)
            self._preallocate(fd, entry.virtual_size, size)
            os.fsync(fd)
        except BaseException:
            if there < size:
                os.ftruncate(fd, there)
            raise

    def _grow_expanded(self, fd: int, size: int) -> None:
        qemu_lock.refuse_held(self.data, self.label)
        header = checked(fd, self.data)
        if header.in_use:
            qemu_img.repair(self.data, DiskFormat.PLOOP)
        try:
            if header.size < size:
                ploop.grow(fd, size)
            self._reserve(fd)
        except ploop.PloopError as error:
            raise InvalidRequest(reason=f"{self.label} cannot grow: {error}") from error
        os.fsync(fd)

    def _remove(self) -> None:
        filesystem.remove_tree(self.path, self.path.with_name(f".{self.path.name}{_DELETED}"))
        ploop.sweep(self.path)

    def _allocated(self, entry: ManifestDisk) -> int:
        with os.scandir(self.path) as files:
            return sum(file.stat().st_blocks * 512 for file in files)

    def source(self) -> DiskSource:
        entry = self._entry()
        self._descriptor(entry)
        return self._source(entry)

    # --- snapshots are directories too ----------------------------------------------------------

    @contextmanager
    def _keeping(self, entry: ManifestDisk, name: str, progress: Progress) -> Iterator[Step]:
        qemu_lock.refuse_held(self.data, self.label)
        folder = self._folder(self.kept / name, entry.format)
        try:
            self._copy(self.data, folder.fd, progress)
            yield folder.commit
        finally:
            folder.close()

    def _prepare(self, entry: ManifestDisk, name: str, progress: Progress) -> None:
        qemu_lock.refuse_held(self.data, self.label)
        folder = self._folder(self.kept / RESTORED, entry.format)
        try:
            self._copy(self.kept / name / ploop.DATA, folder.fd, progress)
            self._preallocate(folder.fd, 0, os.fstat(folder.fd).st_size)
            folder.commit()
        finally:
            folder.close()

    def _restore(self, entry: ManifestDisk, name: str) -> None:
        restored = self.kept / RESTORED
        for file in (ploop.DATA, ploop.FILE):
            if (restored / file).exists():
                filesystem.rename(restored / file, self.path / file, replace=True)
        filesystem.sync_directory(self.path)
        with suppress(FileNotFoundError):
            restored.rmdir()

    def _drop(self, name: str) -> None:
        with filesystem.errors_of(self.kept / name, "delete"), suppress(FileNotFoundError):
            shutil.rmtree(self.kept / name)


def _read(path: Path) -> bytes:
    with filesystem.errors_of(path, "read"):
        fd = filesystem.open_regular(path)
        try:
            return os.read(fd, _LARGEST + 1)
        finally:
            os.close(fd)


class PloopBackend(FileBackend):
    name = "ploop"
    disk_class = PloopDisk

    @property
    def traits(self) -> Traits:
        chosen = configured(self.section.ploop_format)
        return Traits(
            name=self.name,
            base_format=DiskFormat.RAW,
            disk_format=chosen,
            instant_clone=self.shares,
            grows_online=chosen == DiskFormat.RAW,
            snapshots=True,
            instant_snapshot=self.shares,
            preallocates=True,
            importing=True,
        )

    def clean(self) -> None:
        """Directories that killed processes were making or removing, too."""
        super().clean()
        for left in [*self.instances.glob(f"*/.*{filesystem.PART}/"), *self.instances.glob(f"*/.*{_DELETED}/")]:
            name = left.name[1:].removesuffix(_DELETED)
            if name.endswith(filesystem.PART):
                name = name.rsplit(".", 2)[0]
            with suppress(NotFound), manifest.locked(left.parent):
                ploop.sweep(left.parent / name)
                shutil.rmtree(left.parent / f".{name}{_DELETED}", ignore_errors=True)
