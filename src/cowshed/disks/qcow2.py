"""qcow2: an overlay of a base, written in process in a few hundred bytes; or a blank image."""

from __future__ import annotations

from pathlib import Path

from cowshed.contract.callbacks import Progress
from cowshed.contract.storage import Traits
from cowshed.disks.file import FileBackend, FileDisk
from cowshed.model.disk import Base, DiskFormat, DiskSource, DiskType, Preallocation
from cowshed.tools import filesystem, qcow2, qemu_img


class Qcow2Disk(FileDisk):
    format = DiskFormat.QCOW2
    backend = "qcow2"

    def _fill(self, fd: int, path: Path, size: int, base: Base | None, progress: Progress) -> None:
        cluster_size = self.section.cluster_size
        if base:
            qcow2.create_overlay(
                fd, size=size, backing_path=base.path.absolute(), backing_format=base.format, cluster_size=cluster_size
            )
            return  # what an overlay would reserve is what its base has already
        preallocation = Preallocation(self.section.preallocation)
        if preallocation == Preallocation.OFF:
            qcow2.create_blank(fd, size=size, cluster_size=cluster_size)
            return
        if preallocation != Preallocation.METADATA:
            filesystem.check_space(self.directory, size)
        qemu_img.create(path, self.format, size, preallocation=preallocation, cluster_size=str(cluster_size))

    def _parent(self, base: Base | None) -> Base | None:
        return base

    def _take(self, path: Path) -> None:
        from cowshed.tools import transfer

        filesystem.remove_file(self.path)
        transfer.export(DiskSource(DiskType.FILE, DiskFormat.RAW, path), self.path, self.format)
        filesystem.remove_file(path)

    def _grow(self, size: int) -> None:
        qemu_img.resize(self.path, self.format, size)


class Qcow2Backend(FileBackend):
    name = "qcow2"
    disk_class = Qcow2Disk

    @property
    def traits(self) -> Traits:
        return Traits(
            name=self.name,
            base_format=DiskFormat.RAW,
            disk_format=DiskFormat.QCOW2,
            instant_clone=True,
            preallocates=True,
            importing=True,
        )
