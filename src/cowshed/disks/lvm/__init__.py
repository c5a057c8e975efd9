"""lvm: volumes of a group. With a thin pool, bases live in the pool and disks are instant clones of them."""

from __future__ import annotations

from pathlib import Path

from cowshed.config import LvmSection
from cowshed.contract.storage import KeySource
from cowshed.disks.lvm.backend import LvmBackend
from cowshed.disks.lvm.bases import ThinLvmBackend
from cowshed.disks.lvm.disk import LvmDisk

__all__ = ["LvmBackend", "LvmDisk", "ThinLvmBackend", "open_backend"]


def open_backend(instances: Path, section: LvmSection, keys: KeySource | None = None) -> LvmBackend:
    kind = ThinLvmBackend if section.thin_pool else LvmBackend
    return kind(instances, section, keys)
