"""Points in time of a volume: thin snapshots of a thin one, classic copy-on-write ones of a thick one.

A thin disk goes back by exchange: a clone of the snapshot takes its name. (LVM's own way, merging,
ends the snapshot and cuts all others off.) A thick one goes back by merging, and the snapshot is
taken anew. A classic snapshot stands on the volume as it is and would be lost if that were cut, so
before the size of the volume changes, its classic snapshots become copies, volumes of their own.

Tags say what is under way: what a killed process has left is finished before the disk is used again.
"""

from __future__ import annotations

import re
import threading
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import Snapshotting
from cowshed.disks.lvm import content, points, temporary
from cowshed.disks.lvm.points import Point
from cowshed.errors import Busy, DiskNotFound, InvalidRequest, NameTaken, SnapshotNotFound
from cowshed.model.disk import DiskSnapshot, ManifestDisk
from cowshed.tools import cryptsetup, locks, lvm
from cowshed.units import MiB

if TYPE_CHECKING:
    from cowshed.disks.lvm.backend import LvmBackend

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,63}")
_ROLLING: Final = "rolling-back"  # tag of a thick volume: to which snapshot
_REPLACES: Final = "replaces"  # tag of a thin volume: it is becoming the disk
_LOCK: Final = ".volumes"
_PATIENCE: Final = 600.0  # seconds; a thick snapshot may be being copied
_CHUNK: Final = 4096  # bytes of a classic snapshot's chunk; each costs 16 more in its table


class SnapshottingVolume(Snapshotting):
    """The part of a disk that is about its snapshots."""

    instance: str
    name: str
    directory: Path
    place: LvmBackend
    _worker = 0  # the thread that holds the lock

    @property
    @abstractmethod
    def label(self) -> str: ...

    @abstractmethod
    def _entry(self) -> ManifestDisk: ...

    @abstractmethod
    def _facts(self) -> dict[str, str]: ...

    @abstractmethod
    def _settle(self) -> None: ...

    def take(self, name: str, *, progress: Progress = SILENT) -> None:
        if not _NAME.fullmatch(name):
            raise InvalidRequest(
                reason=f"{name!r} cannot be the name of a snapshot",
                hint="letters, digits, . _ -, neither a dot nor a dash first; 64 at most",
            )
        self._entry()
        with self.working():
            entry = self._entry()
            volume, there = self._look(entry)
            if name in self._known(there):
                raise NameTaken(kind="snapshot", name=f"{name} of disk {self.label}")
            point = points.new(name, entry.virtual_size, volume)
            self._take(volume, point)
            self._stand(volume, point)

    def snapshots(self) -> Sequence[DiskSnapshot]:
        _, there = self._look(self._entry())
        return points.described(self._known(there).values())

    def roll_back(self, name: str, *, progress: Progress = SILENT) -> None:
        self._entry()
        with self.working():
            entry = self._entry()
            volume, there = self._look(entry)
            point = self._required(name, there)
            cryptsetup.close(volume.name)
            if volume.open and not entry.encryption:
                raise Busy(what=f"disk {self.label}", holder="a guest or a tool", hint="stop the instance first")
            if volume.thin:
                assert point.volume
                facts = {**self._facts(), _REPLACES: volume.name, points.AT: "-".join(point.place)}
                if "encrypted" in volume.tags:
                    facts["encrypted"] = volume.tags["encrypted"]
                clone = temporary.name(temporary.MOVED)
                lvm.thin_snapshot(volume.group, clone, point.volume.name, lvm.tags(**facts))
                self._exchange(volume.group, volume.name, clone, there)
            else:
                lvm.retag(volume.group, volume.name, add=[lvm.tag_of(_ROLLING, point.name), *_memory(point)])
                self._merge_back(entry)

    def remove(self, name: str) -> None:
        self._entry()
        with self.working():
            _, there = self._look(self._entry())
            kept = self._required(name, there).volume
            assert kept
            self.place.dispose(kept)

    # --- one of them --------------------------------------------------------------------------

    def _take(self, volume: lvm.Volume, point: Point) -> None:
        tags = lvm.tags(**self._facts(), **point.facts())
        name = lvm.snapshot_volume(volume.group, volume.name, point.name)
        if volume.thin:
            lvm.thin_snapshot(volume.group, name, volume.name, tags, active=False)
        else:
            # Room for every block of the volume: a snapshot that runs full is lost.
            room = volume.size + volume.size // _CHUNK * 16 + MiB
            lvm.snapshot(volume.group, name, volume.name, room, tags)

    def _stand(self, volume: lvm.Volume, point: Point, *, done: Sequence[str] = ()) -> None:
        """The volume is at this point now."""
        old, new = points.at(points.where(volume)), points.at(point.place)
        removed = [tag for tag in (*done, old) if tag != new]
        lvm.retag(volume.group, volume.name, add=[new], remove=removed)

    def _detach(self, volume: lvm.Volume, there: Mapping[str, lvm.Volume], progress: Progress = SILENT) -> None:
        """Classic snapshots of ``volume`` become copies, which its size does not matter to."""
        for point in self._known(there).values():
            kept = point.volume
            if kept and not kept.thin and kept.origin == volume.name:
                self._copy(kept, point, volume.size, progress)

    def _copy(self, kept: lvm.Volume, point: Point, size: int, progress: Progress) -> None:
        """Under another name, then in the place of the classic one. Killed in between, the copy is found and named.

        :param size: of the disk's volume. What LVM calls the size of a classic snapshot is that of its store
        """
        make = lambda name, tags: lvm.create_thick(kept.group, name, size, tags)  # noqa: E731
        facts = {**self._facts(), **point.facts()}
        with temporary.volume(kept.group, make, **facts) as new:
            lvm.activate(kept.group, kept.name)
            content.copy(lvm.node(kept.group, kept.name), lvm.node(kept.group, new), size, progress=progress)
            moved = temporary.name(temporary.MOVED)
            lvm.rename(kept.group, new, moved)
        lvm.remove(kept.group, kept.name)
        lvm.rename(kept.group, moved, kept.name)

    # --- back to one of them ------------------------------------------------------------------

    def _exchange(self, group: str, name: str, clone: str, there: Mapping[str, lvm.Volume]) -> None:
        """``clone`` becomes the volume of the disk; from wherever it is."""
        if clone != name:
            if name in there:
                gone = temporary.name(temporary.GONE)
                lvm.rename(group, name, gone)
                lvm.rename(group, clone, name)
                lvm.remove(group, gone)
            else:
                lvm.rename(group, clone, name)
        self._settle()
        lvm.retag(group, name, remove=[lvm.tag_of(_REPLACES, name)])

    def _merge_back(self, entry: ManifestDisk) -> None:
        """From wherever it is: the content, the size, the snapshot anew, and that it is done."""
        group, _, name = entry.location.partition("/")
        there = lvm.volumes(group)
        volume = there[name]
        wanted = volume.tags[_ROLLING]
        if not volume.active:
            lvm.activate(group, name)
        point = self._known(there).get(wanted) or _remembered(volume, wanted)
        if point.volume is None:  # merged, and not taken anew yet
            self._take(volume, point)
        elif point.volume.origin == name:
            lvm.merge(group, point.volume.name)
            self._take(volume, point)
        else:
            self._copy_back(volume, point, there)
        self._settle()
        self._stand(volume, point, done=[lvm.tag_of(_ROLLING, wanted), *_memory(point)])

    def _copy_back(self, volume: lvm.Volume, point: Point, there: Mapping[str, lvm.Volume]) -> None:
        kept = point.volume
        assert kept
        if kept.size != volume.size:
            self._detach(volume, there)
            lvm.set_size(volume.group, volume.name, kept.size)
        lvm.activate(kept.group, kept.name)
        content.copy(lvm.node(kept.group, kept.name), lvm.node(volume.group, volume.name), kept.size)

    # --- what there is ------------------------------------------------------------------------

    @contextmanager
    def working(self) -> Iterator[None]:
        """Nobody else changes the volumes of this disk during the block; may be nested in one thread.

        Taken before the manifest's lock, never after it.
        """
        if self._worker == threading.get_ident():
            yield
            return
        with locks.lock(self.directory / f".{self.name}{_LOCK}", timeout=_PATIENCE, what=f"disk {self.label}"):
            self._worker = threading.get_ident()
            try:
                yield
            finally:
                self._worker = 0

    def _look(self, entry: ManifestDisk) -> tuple[lvm.Volume, dict[str, lvm.Volume]]:
        """The volume, and all there are; what was interrupted is finished first."""
        group, _, name = entry.location.partition("/")
        there = lvm.volumes(group)
        if self._interrupted(name, there):
            with self.working():  # by somebody who is dead, then
                self._finish(entry)
            there = lvm.volumes(group)
        if name not in there:
            raise DiskNotFound(name=self.label)
        return there[name], there

    def _finish(self, entry: ManifestDisk) -> None:
        group, _, name = entry.location.partition("/")
        there = lvm.volumes(group)
        for moved in self._moved(there):
            if snapshot := moved.tags.get("snapshot"):
                final = lvm.snapshot_volume(group, name, snapshot)
                lvm.remove(group, final)
                lvm.rename(group, moved.name, final)
            else:
                self._exchange(group, name, moved.name, there)
        there = lvm.volumes(group)
        if name in there and _REPLACES in there[name].tags:
            self._exchange(group, name, name, there)
        if name in there and _ROLLING in there[name].tags:
            self._merge_back(entry)

    def _interrupted(self, name: str, there: Mapping[str, lvm.Volume]) -> bool:
        tags = there[name].tags if name in there else {}
        return _ROLLING in tags or _REPLACES in tags or bool(self._moved(there))

    def _moved(self, there: Mapping[str, lvm.Volume]) -> list[lvm.Volume]:
        """Finished volumes of this disk that have not got their names yet."""
        return [
            volume
            for volume in there.values()
            if volume.ours
            and volume.name.startswith(temporary.MOVED)
            and (volume.tags.get("instance"), volume.tags.get("disk")) == (self.instance, self.name)
        ]

    def _known(self, there: Mapping[str, lvm.Volume]) -> dict[str, Point]:
        return points.known(there, self.instance, self.name)

    def _required(self, name: str, there: Mapping[str, lvm.Volume]) -> Point:
        if name not in self._known(there):
            raise SnapshotNotFound(name=f"{name} of disk {self.label}")
        return self._known(there)[name]


def _memory(point: Point) -> list[str]:
    """Tags of the disk that say what the snapshot was, while there is none."""
    facts = {"back-id": point.id, "back-size": str(point.size), "back-path": "-".join(point.path)}
    return [lvm.tag_of(name, value) for name, value in facts.items()]


def _remembered(volume: lvm.Volume, name: str) -> Point:
    path = [part for part in volume.tags["back-path"].split("-") if part]
    return Point(name, volume.tags["back-id"], int(volume.tags["back-size"]), path)
