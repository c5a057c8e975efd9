"""What each snapshot of a disk came from, as the manifest has it."""

from __future__ import annotations

from dataclasses import replace

from cowshed import clock
from cowshed.model.disk import DiskSnapshot, ManifestDisk


def find(entry: ManifestDisk, name: str) -> DiskSnapshot | None:
    return next((snapshot for snapshot in entry.snapshots if snapshot.name == name), None)


def taken(entry: ManifestDisk, name: str) -> ManifestDisk:
    """With a snapshot of now, which comes from what the present content began as."""
    known = without(entry, name)  # an older one that the storage has lost
    new = DiskSnapshot(name, clock.current().time(), entry.virtual_size, known.snapshot)
    return replace(known, snapshots=(*known.snapshots, new), snapshot=name)


def without(entry: ManifestDisk, name: str) -> ManifestDisk:
    """What came from ``name`` comes from its parent now."""
    gone = find(entry, name)
    if gone is None:
        return entry
    return replace(
        entry,
        snapshots=tuple(
            replace(snapshot, parent=gone.parent) if snapshot.parent == name else snapshot
            for snapshot in entry.snapshots
            if snapshot.name != name
        ),
        snapshot=gone.parent if entry.snapshot == name else entry.snapshot,
    )
