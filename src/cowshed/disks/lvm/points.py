"""What the tags of a volume say of it as a point in time.

``id`` is when it was taken (microseconds, hexadecimal); ``path`` is the ids of the points it came
from, eldest first. A disk's own path says where it stands. Points may go; the parent is the nearest
that is still there, so nothing needs to be written anew then.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from cowshed import clock
from cowshed.model.disk import DiskSnapshot
from cowshed.tools import lvm

AT: Final = "at"
_DEEPEST: Final = 50  # ids in a tag, which has room for 1024 characters


@dataclass(frozen=True, slots=True)
class Point:
    """``size`` in bytes, as a guest saw it; ``volume``: where it is kept, None before it is."""

    name: str
    id: str
    size: int
    path: Sequence[str]
    volume: lvm.Volume | None = None

    @property
    def created(self) -> float:
        return int(self.id, 16) / 1e6

    @property
    def place(self) -> Sequence[str]:
        """The path of a disk that stands here."""
        return [*self.path, self.id][-_DEEPEST:]

    def facts(self) -> dict[str, str]:
        """For tags."""
        return {"snapshot": self.name, "id": self.id, "size": str(self.size), "path": "-".join(self.path)}


def new(name: str, size: int, disk: lvm.Volume) -> Point:
    return Point(name, f"{int(clock.current().time() * 1e6):x}", size, where(disk))


def where(disk: lvm.Volume) -> Sequence[str]:
    return [part for part in disk.tags.get(AT, "").split("-") if part]


def at(path: Sequence[str]) -> str:
    """The tag of a disk that stands there."""
    return lvm.tag_of(AT, "-".join(path))


def known(there: Mapping[str, lvm.Volume], instance: str, disk: str) -> dict[str, Point]:
    """The points of one disk by name."""
    return {
        volume.tags["snapshot"]: Point(
            volume.tags["snapshot"],
            volume.tags["id"],
            int(volume.tags["size"]),
            [part for part in volume.tags["path"].split("-") if part],
            volume,
        )
        for volume in there.values()
        if volume.ours
        and not volume.name.startswith("cowshed-")
        and "snapshot" in volume.tags
        and (volume.tags.get("instance"), volume.tags.get("disk")) == (instance, disk)
    }


def described(points: Iterable[Point]) -> list[DiskSnapshot]:
    """Oldest first, with their parents."""
    points = sorted(points, key=lambda point: int(point.id, 16))
    names = {point.id: point.name for point in points}
    return [DiskSnapshot(p.name, p.created, p.size, _parent(p, names)) for p in points]


def _parent(point: Point, names: Mapping[str, str]) -> str | None:
    return next((names[ancestor] for ancestor in reversed(point.path) if ancestor in names), None)
