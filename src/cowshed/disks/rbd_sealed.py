"""RBD disks that QEMU encrypts: a LUKS container in an image of the pool, its content written by qemu-img."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from cowshed.contract.callbacks import Progress
from cowshed.disks.encryption import Sealed
from cowshed.model.disk import DiskSource
from cowshed.tools import luks, luks_header
from cowshed.tools.rbd import Pool

_HEAD = 4096  # bytes: more than the fixed part of any header


def create(pool: Pool, image: str, size: int, sealed: Sealed) -> None:
    """``image`` with a container of ``size`` bytes; it reads as noise until it is written to."""
    pool.create(image, luks_header.LENGTH + size)
    head = luks_header.build(sealed.key, sealed.encryption.parameters)
    with pool.open(image, action="write") as opened:
        opened.write(head, 0)
        opened.flush()


def fill(
    source: DiskSource, target: DiskSource, size: int, sealed: Sealed, keys: luks.Keys, progress: Progress
) -> None:
    """All ``size`` bytes of ``source`` into the new container ``target``."""

    def find(key_id: str) -> bytes:
        return sealed.key if key_id == sealed.encryption.key_id else keys(key_id)

    luks.copy(source, replace(target, encryption=sealed.encryption), find, progress=progress, size=size)


def offset(pool: Pool, image: str, snapshot: str | None = None) -> int:
    """Bytes in front of what the guest sees. :raises DataCorrupt: its header is gone"""
    with pool.open(image, snapshot, read_only=True, action="read") as opened:
        head = opened.read(0, min(_HEAD, opened.size()))
    return luks_header.offset_in(head, Path(str(pool.spec(image))))
