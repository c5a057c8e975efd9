"""The volume group as a place for disks: thick volumes here, thin ones in ``bases``."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cowshed.config import LvmSection
from cowshed.contract.storage import Backend, KeySource, Traits
from cowshed.disks.lvm import temporary
from cowshed.disks.lvm.clearing import Clearing
from cowshed.disks.lvm.disk import LvmDisk
from cowshed.disks.recorded import recorded
from cowshed.model.disk import Capacity, DiskFormat
from cowshed.tools import cryptsetup, lvm


class LvmBackend(Backend):
    """Thick volumes: all their space is theirs from the start, and every byte is written when one is made."""

    name = "lvm"
    zeroed = False  # a new volume reads as whatever was there before

    def __init__(self, instances: Path, section: LvmSection, keys: KeySource | None = None) -> None:
        self.instances = instances
        self.section = section
        self.group = section.volume_group
        self.keys = keys
        self.locks = instances.parent / "locks"
        self.clearing = Clearing(self.group, section, self.locks / f"lvm-{self.group}.clearing")

    @property
    def traits(self) -> Traits:
        return Traits(
            name=self.name,
            block=True,
            base_format=DiskFormat.RAW,
            disk_format=DiskFormat.RAW,
            snapshots=True,  # classic ones, which keep as much space as the volume has
            encrypts=self.keys is not None,
            preallocates=True,
            importing=True,
        )

    def disk(self, instance: str, name: str) -> LvmDisk:
        return LvmDisk(self, instance, name)

    def disks(self, instance: str) -> Sequence[LvmDisk]:
        entries = recorded(self.instances, instance, self.name)
        groups = {entry.location.partition("/")[0] for entry in entries}
        there = {f"{group}/{volume.name}" for group in groups for volume in lvm.volumes(group).values() if volume.ours}
        return [self.disk(instance, entry.name) for entry in entries if entry.location in there]

    def capacity(self) -> Capacity:
        facts = lvm.group(self.group)
        return Capacity(total=facts.size, free=facts.free, used=facts.size - facts.free)

    def clean(self) -> None:
        for volume in lvm.volumes(self.group).values():
            if temporary.abandoned(volume):
                cryptsetup.close(volume.name)
                lvm.remove(self.group, volume.name)
        self.clearing.sweep()

    def dispose(self, volume: lvm.Volume) -> None:
        self.clearing.dispose(volume)

    def allocate(self, name: str, size: int, tags: Sequence[str]) -> None:
        """A new volume of this kind. :raises NoSpace:"""
        lvm.create_thick(self.group, name, size, tags)

    @contextmanager
    def room_errors(self) -> Iterator[None]:
        """:raises NoSpace: when a write to a volume has failed because there is no room left for it"""
        try:
            yield
        except Exception as error:
            cause = error if isinstance(error, OSError) else error.__cause__
            if isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EIO):
                self.check_room()
            raise

    def check_room(self) -> None:
        """:raises NoSpace: what is written to volumes finds no room now"""
