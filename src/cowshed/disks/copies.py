"""Snapshots that are copies of the disk's file, beside it: sharing its blocks where the file system can."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cowshed.contract.callbacks import Progress
from cowshed.disks.file import FileDisk
from cowshed.disks.snapshots import Step, names_in
from cowshed.model.disk import ManifestDisk
from cowshed.tools import filesystem, qemu_lock, reflink, sparse

RESTORED: Final = ".restored"  # no snapshot has this name


class CopiedSnapshots(FileDisk):
    """``.snapshots/<disk>/<name>`` is the whole content of then."""

    def _copy(self, source: Path, target: int, progress: Progress) -> None:
        """Let the empty file ``target`` have the content of ``source``, with blocks of its own where they are reserved.

        :raises NoSpace: before anything is written, as far as can be told
        """
        with filesystem.errors_of(source, "read"):
            fd = filesystem.open_regular(source)
        try:
            # Shared blocks are not reserved ones: a write to them can still find no space.
            if not self.reserves and reflink.clone(fd, target):
                return
            data = os.fstat(fd).st_blocks * 512
            filesystem.check_space(self.directory, data)
            progress.phase("copy", data)
            sparse.copy(fd, target, share=not self.reserves, progress=progress)
        finally:
            os.close(fd)

    @contextmanager
    def _keeping(self, entry: ManifestDisk, name: str, progress: Progress) -> Iterator[Step]:
        qemu_lock.refuse_held(self.data, self.label)
        with filesystem.publish(self.kept / name, unnamed=True) as new:
            self._copy(self.data, new.fd, progress)
            yield new.commit

    def _prepare(self, entry: ManifestDisk, name: str, progress: Progress) -> None:
        qemu_lock.refuse_held(self.data, self.label)
        with filesystem.publish(self.kept / RESTORED, unnamed=True) as new:
            self._copy(self.kept / name, new.fd, progress)
            self._preallocate(new.fd, 0, os.fstat(new.fd).st_size)

    def _restore(self, entry: ManifestDisk, name: str) -> None:
        restored = self.kept / RESTORED
        if restored.exists():  # else it is the disk already
            filesystem.rename(restored, self.path, replace=True)
            filesystem.sync_directory(self.directory)

    def _drop(self, name: str) -> None:
        filesystem.remove_file(self.kept / name)

    def _strays(self, entry: ManifestDisk) -> Sequence[str]:
        known = {snapshot.name for snapshot in entry.snapshots}
        return [name for name in names_in(self.kept) if name not in known]
