"""qcow2: an overlay of a base, written in process in a few hundred bytes; or a blank image."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import Traits
from cowshed.disks import manifest
from cowshed.disks.encryption import Sealed
from cowshed.disks.file import RESERVING, FileBackend, FileDisk
from cowshed.disks.snapshots import Step
from cowshed.errors import DataCorrupt, InvalidRequest, SnapshotNotFound
from cowshed.model.disk import Base, DiskFormat, DiskSource, DiskType, ManifestDisk, Preallocation
from cowshed.tools import filesystem, luks, luks_header, qcow2, qemu_img, qemu_lock, sparse
from cowshed.tools.filesystem import Publication
from cowshed.tools.qcow2 import overlay

_PREFIX = "cowshed:"


class Qcow2Disk(FileDisk):
    format = DiskFormat.QCOW2
    backend = "qcow2"

    def _check_base(self, base: Base) -> None:
        if base.format not in overlay.QEMU_NAME:
            raise InvalidRequest(reason=f"a qcow2 disk cannot have a base in the format {base.format}")
        with filesystem.errors_of(base.path, "read"):
            os.close(filesystem.open_regular(base.path))

    def _fill(self, new: Publication, size: int, base: Base | None, sealed: Sealed | None, progress: Progress) -> None:
        cluster_size = self.section.cluster_size
        preallocation = Preallocation(self.section.preallocation)
        self._check_room(size)
        progress.check()
        head = _head(sealed)
        if base:
            qcow2.create_overlay(
                new.fd,
                size=size,
                backing_path=base.path.absolute(),
                backing_format=base.format,
                cluster_size=cluster_size,
                luks=head,
            )
            self._reserve(new.fd, size)
        elif preallocation == Preallocation.OFF or sealed:
            qcow2.create_blank(new.fd, size=size, cluster_size=cluster_size, luks=head)
            self._reserve(new.fd, size)
        else:
            qemu_img.create(new.path, self.format, size, preallocation=preallocation, cluster_size=str(cluster_size))

    def _reserve(self, fd: int, size: int) -> None:
        """falloc and full keep blocks for a guest that writes everything anew.

        Clusters of an overlay cannot be mapped before they are written (that would hide the base),
        so metadata has nothing to do there.
        """
        if self.reserves:
            sparse.reserve(fd, size)

    def _fill_with(self, new: Publication, size: int, write: Callable[[Path], object], sealed: Sealed | None) -> None:
        from cowshed.tools import transfer

        self._check_room(size)
        place = filesystem.secret_scratch if sealed else filesystem.scratch
        with place(self.directory, size) as scratch:
            write(scratch.path)
            if sealed:
                self._fill_from(new, size, scratch.path, sealed)
                return
            transfer.to_qcow2(scratch.fd, new.fd)
        self._reserve(new.fd, size)

    def _fill_from(self, new: Publication, size: int, path: Path, sealed: Sealed | None) -> None:
        assert sealed is not None
        self._fill(new, size, None, sealed, SILENT)
        source = DiskSource(DiskType.FILE, DiskFormat.RAW, path)
        target = DiskSource(DiskType.FILE, self.format, new.path, encryption=sealed.encryption)
        luks.copy(source, target, sealed.find, zero=True, size=size)

    def _parent(self, base: Base | None) -> Base | None:
        return base

    def _take(self, path: Path, size: int) -> None:
        from cowshed.tools import transfer

        transfer.export(DiskSource(DiskType.FILE, DiskFormat.RAW, path), self.path, self.format)
        filesystem.remove_file(path)

    def _grow(self, entry: ManifestDisk, size: int) -> None:
        """A running guest holds the file; what libvirt has grown for it is only recorded."""
        self._check_room(size - entry.virtual_size)
        preallocation = Preallocation.OFF if entry.base_path else Preallocation(self.section.preallocation)
        fd = filesystem.open_regular(self.path, os.O_RDWR)
        try:
            if qcow2.read_header(fd).size < size and entry.encryption:
                luks.resize(self._source(entry), size, self._key, preallocation=preallocation)
            elif qcow2.read_header(fd).size < size:
                qemu_img.resize(self.path, self.format, size, preallocation=preallocation)
            self._reserve(fd, size)
            os.fsync(fd)
        except qcow2.QcowError as error:
            raise DataCorrupt(path=self.path, reason=str(error)) from error
        finally:
            os.close(fd)

    # --- snapshots are inside the file ----------------------------------------------------------

    @contextmanager
    def _keeping(self, entry: ManifestDisk, name: str, progress: Progress) -> Iterator[Step]:
        qemu_lock.refuse_held(self.path, self.label)
        yield lambda: self._snapshot(entry, qemu_img.TAKE, name)

    def _prepare(self, entry: ManifestDisk, name: str, progress: Progress) -> None:
        """:raises SnapshotNotFound: the file does not have it; once it is written down that the disk becomes it, there is no way back"""
        qemu_lock.refuse_held(self.path, self.label)
        if tag(name) not in self._tags():
            raise SnapshotNotFound(
                name=f"{name} of {self.label}", hint="its file does not have it any more: remove the snapshot"
            )

    def _restore(self, entry: ManifestDisk, name: str) -> None:
        self._snapshot(entry, qemu_img.APPLY, name)

    def _drop(self, name: str) -> None:
        while tag(name) in self._tags():  # of one name there may be several inside
            self._snapshot(manifest.require(self.directory, self.name), qemu_img.REMOVE, name)

    def _snapshot(self, entry: ManifestDisk, action: str, name: str) -> None:
        if entry.encryption:
            luks.snapshot(self._source(entry), action, tag(name), self._key)
        else:
            qemu_img.snapshot(self.path, action, tag(name))

    def _strays(self, entry: ManifestDisk) -> Sequence[str]:
        """Those with our prefix only: others may have been made with virsh."""
        known = {snapshot.name for snapshot in entry.snapshots}
        ours = [tag.removeprefix(_PREFIX) for tag in self._tags() if tag.startswith(_PREFIX)]
        return [name for name in dict.fromkeys(ours) if name not in known]

    def _tags(self) -> list[str]:
        fd = filesystem.open_regular(self.path)
        try:
            return [snapshot.name for snapshot in qcow2.read_snapshots(fd)]
        except qcow2.QcowError as error:
            raise DataCorrupt(path=self.path, reason=str(error)) from error
        finally:
            os.close(fd)


def tag(name: str) -> str:
    """What the snapshot is called inside. A name of digits alone would be taken for the number of another."""
    return _PREFIX + name


def _head(sealed: Sealed | None) -> bytes:
    return luks_header.build(sealed.key, sealed.encryption.parameters) if sealed else b""


class Qcow2Backend(FileBackend):
    name = "qcow2"
    disk_class = Qcow2Disk

    @property
    def traits(self) -> Traits:
        return Traits(
            name=self.name,
            base_format=DiskFormat.RAW,
            disk_format=DiskFormat.QCOW2,
            instant_clone=self.section.preallocation not in RESERVING,
            grows_online=False,
            snapshots=True,
            instant_snapshot=True,
            preallocates=True,
            encrypts=self.keys is not None,
            importing=True,
        )
