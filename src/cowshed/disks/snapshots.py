"""Snapshots of disks whose storage has no tree of its own: the manifest says which there are.

What a snapshot needs lies in ``<instance>/.snapshots/<disk>/``, one name a snapshot, or inside the
disk. The directory is also the lock of whoever works on the disk's snapshots. Order, so that a
process killed at any step leaves the old state or the new one:

* take: what is kept is complete and durable, then the manifest names it;
* remove: the manifest forgets it, then what was kept goes;
* roll back: the new content is prepared, the manifest says what the disk is becoming, the content
  is exchanged, the manifest says that it has become so. Whoever finds the disk in between finishes.

What is kept without a record was left by a killed process, and goes with the next change.
"""

from __future__ import annotations

import os
import re
import shutil
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Final, Protocol

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import Snapshotting
from cowshed.disks import lineage, manifest
from cowshed.disks.recorded import RecordedDisk
from cowshed.errors import Busy, CowshedError, InvalidRequest, NameTaken, SnapshotNotFound
from cowshed.model.disk import DiskSnapshot, ManifestDisk
from cowshed.tools import filesystem, locks

FOLDER: Final = ".snapshots"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")


class Step(Protocol):
    """The last part of something prepared; quick."""

    def __call__(self) -> None: ...


class RecordedSnapshots(RecordedDisk, Snapshotting):
    """A backend says how one is kept, restored and dropped; names, order and crashes are dealt with here."""

    @property
    def kept(self) -> Path:
        """The directory of what is kept for this disk."""
        return self.directory / FOLDER / self.name

    @abstractmethod
    def _keeping(self, entry: ManifestDisk, name: str, progress: Progress) -> AbstractContextManager[Step]:
        """Prepare to keep the present content; the step makes it complete and durable under ``name``.

        :raises Busy: the disk is in use
        """

    @abstractmethod
    def _prepare(self, entry: ManifestDisk, name: str, progress: Progress) -> None:
        """Have ready what :meth:`_restore` needs. :raises Busy: the disk is in use"""

    @abstractmethod
    def _restore(self, entry: ManifestDisk, name: str) -> None:
        """Let the disk have the content and size of ``name``, durably. Done again, it changes nothing."""

    @abstractmethod
    def _drop(self, name: str) -> None:
        """Let go of what is kept under ``name``; already gone is success. :raises Busy: the disk is in use"""

    @abstractmethod
    def _strays(self, entry: ManifestDisk) -> Sequence[str]:
        """Names under which something is kept that ``entry`` does not name."""

    # --- the promises -------------------------------------------------------------------------

    def take(self, name: str, *, progress: Progress = SILENT) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                reason=f"{name!r} cannot be the name of a snapshot",
                hint="letters, digits, ._-, neither a dot nor a dash first, 64 at most",
            )
        with self._alone() as entry:
            if lineage.find(entry, name):
                raise NameTaken(kind="snapshot", name=f"{name} of {self.label}")
            self._sweep(entry)
            with self._keeping(entry, name, progress) as finish:
                self._publish(entry, name, finish)

    def _publish(self, entry: ManifestDisk, name: str, finish: Step) -> None:
        try:
            finish()
            self._record(lineage.taken(entry, name))
        except BaseException:
            with suppress(CowshedError, OSError):
                self._drop(name)
            raise

    def snapshots(self) -> Sequence[DiskSnapshot]:
        return self._entry().snapshots

    def roll_back(self, name: str, *, progress: Progress = SILENT) -> None:
        with self._alone() as entry:
            self._require(entry, name)
            self._sweep(entry)
            self._prepare(entry, name, progress)
            becoming = replace(entry, rolling_back=name)
            try:
                self._record(becoming)
            except BaseException:
                with suppress(CowshedError, OSError):
                    if not super()._entry().rolling_back:
                        self._sweep(entry)
                raise
            self._finish(becoming)

    def remove(self, name: str) -> None:
        with self._alone() as entry:
            self._sweep(entry)
            self._require(entry, name)
            self._record(lineage.without(entry, name))
            try:
                self._drop(name)
            except BaseException:
                with suppress(CowshedError):
                    self._record(entry)
                raise

    def drop_strays(self) -> None:
        """Let go of what is kept without a record, say for the disk that had this name before."""
        if self.kept.is_dir():
            with self._alone() as entry:
                self._sweep(entry)

    def _remove_kept(self) -> None:
        """All of it, when the disk is deleted."""
        with filesystem.errors_of(self.kept, "delete"):
            with suppress(FileNotFoundError):
                shutil.rmtree(self.kept)
            with suppress(OSError):  # another disk has snapshots, or there is none
                self.kept.parent.rmdir()

    # --- what a killed process left -----------------------------------------------------------

    def _entry(self) -> ManifestDisk:
        entry = super()._entry()
        if not entry.rolling_back:
            return entry
        with self._alone() as settled:
            return settled

    def _finish(self, entry: ManifestDisk) -> ManifestDisk:
        """The disk becomes what the manifest says it is becoming."""
        assert entry.rolling_back is not None
        snapshot = self._require(entry, entry.rolling_back)
        with filesystem.errors_of(self._shown(entry), "roll back"):
            self._restore(entry, snapshot.name)
        done = replace(entry, virtual_size=snapshot.virtual_size, snapshot=snapshot.name, rolling_back=None)
        self._record(done)
        return done

    def _sweep(self, entry: ManifestDisk) -> None:
        for name in self._strays(entry):
            self._drop(name)

    # --- the record ---------------------------------------------------------------------------

    @contextmanager
    def _alone(self) -> Iterator[ManifestDisk]:
        """Nobody else works on this disk's snapshots meanwhile; yields what the disk is."""
        super()._entry()  # a disk that is not there gets no directory
        with filesystem.errors_of(self.kept, "create"):
            filesystem.make_directory(self.kept, mode=0o700)
        with locks.directory(self.kept, timeout=60, what=f"the snapshots of {self.label}"):
            entry = super()._entry()
            yield self._finish(entry) if entry.rolling_back else entry

    def _require(self, entry: ManifestDisk, name: str) -> DiskSnapshot:
        if found := lineage.find(entry, name):
            return found
        raise SnapshotNotFound(name=f"{name} of {self.label}")

    def _record(self, entry: ManifestDisk) -> None:
        """Write it down, unless the disk has become something else meanwhile.

        :raises DiskNotFound: it was deleted
        :raises Busy: it was resized
        """
        with manifest.editing(self.directory) as disks:
            now = super()._entry()
            if entry.rolling_back or now.rolling_back or now.virtual_size == entry.virtual_size:
                disks[self.name] = entry
                return
            raise Busy(what=self.label, holder="somebody who resized it", hint="try again")


def names_in(place: Path) -> list[str]:
    """What is kept in a directory; a missing one is empty."""
    try:
        return os.listdir(place)
    except FileNotFoundError:
        return []
