"""A thin pool as a place for disks and their bases.

A base is a thin volume ``cowshed-base-<name>``, read-only and not active; what it is stands in its
tags. Disks are thin snapshots of it, which do not depend on it: it may go at any time.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import BaseContent, BaseKeeping, ContentSink, FillBase, Traits
from cowshed.disks.lvm import temporary
from cowshed.disks.lvm.backend import LvmBackend
from cowshed.errors import InternalError
from cowshed.model.disk import Base, Capacity, DiskFormat, KeptBase
from cowshed.tools import block, filesystem, locks, lvm

_PATIENCE: Final = 3600.0  # seconds to wait for somebody else's fill of the same base


class ThinLvmBackend(LvmBackend, BaseKeeping):
    """Thin volumes: they take room in the pool as they are written to."""

    zeroed = True  # the pool zeroes each block before it hands it out

    @property
    def pool(self) -> str:
        return self.section.thin_pool

    @property
    def traits(self) -> Traits:
        return Traits(
            name=self.name,
            block=True,
            base_format=DiskFormat.RAW,
            disk_format=DiskFormat.RAW,
            keeps_bases=True,
            instant_clone=True,
            snapshots=True,
            instant_snapshot=True,
            encrypts=self.keys is not None,
            importing=True,
        )

    def capacity(self) -> Capacity:
        pool = lvm.thin_pool(self.group, self.pool)
        free = lvm.pool_free(pool)
        return Capacity(total=pool.size, free=free, used=pool.size - free)

    def allocate(self, name: str, size: int, tags: Sequence[str]) -> None:
        lvm.check_pool(self.group, self.pool, 0)
        lvm.create_thin(self.group, name, size, self.pool, tags)

    def check_room(self) -> None:
        lvm.check_pool(self.group, self.pool, 0)

    # --- bases --------------------------------------------------------------------------------

    def find_base(self, name: str) -> Base | None:
        volume = lvm.volume(self.group, _volume(name))
        return _base(volume) if volume and _is_base(volume) else None

    def add_base(self, name: str, image_id: str, fill: FillBase, *, progress: Progress = SILENT) -> Base:
        lock = self.locks / f"lvm-{self.group}.{name}"
        with locks.lock(lock, timeout=_PATIENCE, what=f"base {name}"):
            if found := self.find_base(name):
                return found
            self._add(name, image_id, fill)
        found = self.find_base(name)
        if found is None:
            raise InternalError(reason=f"base {name} has gone while it was made")
        return found

    def _add(self, name: str, image_id: str, fill: FillBase) -> None:
        with ExitStack() as stack, self.room_errors():
            filling = _Filling(self, stack)
            content = fill(filling.open)
            filling.sync()
            filling.publish(_volume(name), content, image_id)

    def bases(self) -> Sequence[KeptBase]:
        """None is in use ever: a clone has everything itself."""
        there = lvm.volumes(self.group).values()
        return [
            KeptBase(
                volume.name.removeprefix(temporary.BASE),
                _base(volume),
                allocated=int(volume.size * volume.used),
                users=0,
            )
            for volume in there
            if _is_base(volume)
        ]

    def remove_base(self, name: str) -> None:
        lvm.remove(self.group, _volume(name))


class _Filling:
    """One base that is being made."""

    def __init__(self, backend: ThinLvmBackend, stack: ExitStack) -> None:
        self.group, self.pool = backend.group, backend.pool
        self._stack = stack
        self._new = ""
        self._fd = -1

    def open(self, size: int, data: int) -> ContentSink:
        """:raises NoSpace: the pool has no room for ``data`` bytes"""
        from cowshed.tools.transfer.device import DeviceSink

        lvm.check_pool(self.group, self.pool, data)
        whole = -(-size // 512) * 512

        def make(name: str, tags: list[str]) -> None:
            lvm.create_thin(self.group, name, whole, self.pool, tags)

        self._new = self._stack.enter_context(temporary.volume(self.group, make))
        node = lvm.node(self.group, self._new)
        with filesystem.errors_of(node, "write"):
            self._fd = block.open_device(node, os.O_RDWR)
        self._stack.callback(self._close)
        return DeviceSink(self._fd, size, zeroed=True)

    def sync(self) -> None:
        with filesystem.errors_of(lvm.node(self.group, self._new), "write"):
            os.fsync(self._fd)
        self._close()

    def _close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def publish(self, volume: str, content: BaseContent, image_id: str) -> None:
        facts = {
            "base": volume.removeprefix(temporary.BASE),
            "size": str(content.virtual_size),
            "digest": content.digest,
            "source": content.source_digest,
            "image": image_id,
        }
        lvm.retag(self.group, self._new, add=[lvm.tag_of(name, value) for name, value in facts.items()])
        lvm.read_only(self.group, self._new)
        lvm.deactivate(self.group, self._new)
        lvm.rename(self.group, self._new, volume)


def _volume(name: str) -> str:
    return temporary.BASE + name


def _is_base(volume: lvm.Volume) -> bool:
    return volume.ours and "base" in volume.tags and volume.name == _volume(volume.tags["base"])


def _base(volume: lvm.Volume) -> Base:
    return Base(
        path=Path(),
        format=DiskFormat.RAW,
        virtual_size=int(volume.tags["size"]),
        digest=volume.tags["digest"],
        image_id=volume.tags["image"],
        location=f"{volume.group}/{volume.name}",
        source_digest=volume.tags["source"],
    )
