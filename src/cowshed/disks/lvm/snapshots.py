"""Points in time of a volume: thin snapshots of a thin one, classic copy-on-write ones of a thick one.

LVM goes back to either by merging it, which ends the snapshot, so a roll-back takes it anew
afterwards. A classic one stands on the volume as it is and would be lost if that were cut; before
the size of the volume changes, its classic snapshots become copies, volumes of their own.

A tag on the volume says that it is going back, and to where: what a killed process has left is
finished before the disk is used again.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import Snapshotting
from cowshed.disks.lvm import content, points, temporary
from cowshed.disks.lvm.points import Point
from cowshed.errors import Busy, DiskNotFound, InvalidRequest, NameTaken, SnapshotNotFound
from cowshed.model.disk import DiskSnapshot, ManifestDisk
from cowshed.tools import cryptsetup, lvm
from cowshed.units import MiB

if TYPE_CHECKING:
    from cowshed.disks.lvm.backend import LvmBackend

_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")
_ROLLING: Final = "rolling-back"
_CHUNK: Final = 4096  # bytes of a classic snapshot's chunk; each costs 16 more in its table


class SnapshottingVolume(Snapshotting):
    """The part of a disk that is about its snapshots."""

    instance: str
    name: str
    directory: Path
    place: LvmBackend

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
                reason=f"{name!r} cannot be the name of a snapshot", hint="letters, digits, . _ -; 64 at most"
            )
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
        entry = self._entry()
        volume, there = self._look(entry)
        self._required(name, there)
        cryptsetup.close(volume.name)
        if volume.open and not entry.encryption:
            raise Busy(what=f"disk {self.label}", holder="a guest or a tool", hint="stop the instance first")
        point = self._required(name, there)
        lvm.retag(volume.group, volume.name, add=[lvm.tag_of(_ROLLING, point.name), *_memory(point)])
        self._finish_roll_back(entry)

    def remove(self, name: str) -> None:
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

    def _finish_roll_back(self, entry: ManifestDisk) -> None:
        """From wherever it is: the content, the size, the snapshot anew, and that it is done."""
        group, _, name = entry.location.partition("/")
        there = lvm.volumes(group)
        volume = there[name]
        wanted = volume.tags.get(_ROLLING)
        if wanted is None:
            return
        if not volume.active:
            lvm.activate(group, name)
        point = self._known(there).get(wanted) or _remembered(volume, wanted)
        if point.volume and (point.volume.thin or point.volume.origin == name):
            lvm.merge(group, point.volume.name)
            self._take(volume, point)
        elif point.volume:
            self._copy_back(entry, volume, point, there)
        else:  # merged, and not taken anew yet
            self._take(volume, point)
        self._settle()
        self._stand(volume, point, done=[lvm.tag_of(_ROLLING, wanted), *_memory(point)])

    def _copy_back(
        self, entry: ManifestDisk, volume: lvm.Volume, point: Point, there: Mapping[str, lvm.Volume]
    ) -> None:
        kept = point.volume
        assert kept
        if kept.size != volume.size:
            self._detach(volume, there)
            lvm.set_size(volume.group, volume.name, kept.size)
        lvm.activate(kept.group, kept.name)
        content.copy(lvm.node(kept.group, kept.name), lvm.node(volume.group, volume.name), kept.size)

    # --- what there is ------------------------------------------------------------------------

    def _look(self, entry: ManifestDisk) -> tuple[lvm.Volume, dict[str, lvm.Volume]]:
        """The volume, and all there are; what was interrupted is finished first."""
        group, _, name = entry.location.partition("/")
        there = lvm.volumes(group)
        if name not in there:
            raise DiskNotFound(name=self.label)
        if _ROLLING in there[name].tags or self._moved(there):
            for kept in self._moved(there):
                final = lvm.snapshot_volume(group, name, kept.tags["snapshot"])
                lvm.remove(group, final)
                lvm.rename(group, kept.name, final)
            self._finish_roll_back(entry)
            there = lvm.volumes(group)
        return there[name], there

    def _moved(self, there: Mapping[str, lvm.Volume]) -> list[lvm.Volume]:
        """Copies of classic snapshots that have not got their names yet."""
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
