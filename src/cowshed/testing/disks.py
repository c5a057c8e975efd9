"""Disks in memory: the disk contract without a disk."""

from __future__ import annotations

import re
import tempfile
import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from cowshed import clock
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import Backend, Disk, Importing, Snapshotting, Traits
from cowshed.errors import (
    DiskNotFound,
    DiskTooSmall,
    InvalidRequest,
    NameTaken,
    SnapshotNotFound,
    UnsupportedOperation,
)
from cowshed.model.disk import Base, Capacity, DiskFormat, DiskInfo, DiskSnapshot, DiskSource, DiskType
from cowshed.tools import filesystem
from cowshed.units import TiB

Blocks: TypeAlias = dict[int, bytes]
_BLOCK = 64 * 1024
_SECTOR = 512
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SNAPSHOT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,63}")


class Content:
    """``size`` bytes, of which only the blocks that are not zero are kept."""

    def __init__(self, size: int, blocks: dict[int, bytes] | None = None) -> None:
        self.size = size
        self.blocks = dict(blocks or {})
        self.snapshots: dict[str, tuple[DiskSnapshot, dict[int, bytes]]] = {}
        self.snapshot: str | None = None  # what the present content began as

    def copy(self) -> Content:
        """The blocks are shared: they never change, they are replaced."""
        return Content(self.size, self.blocks)

    def read_file(self, path: Path, progress: Progress = SILENT) -> None:
        with filesystem.errors_of(path, "read"), path.open("rb") as file:
            progress.phase("copy", path.stat().st_size)
            position = 0
            while data := file.read(_BLOCK):
                progress.check()
                self.write(position, data)
                position += len(data)
                progress.update(len(data))

    def write(self, position: int, data: bytes) -> None:
        """``position`` lies on a block's beginning."""
        for start in range(0, len(data), _BLOCK):
            block = data[start : start + _BLOCK]
            if any(block):
                self.blocks[position + start] = block

    def change(self, position: int, data: bytes) -> None:
        """Write anywhere, as a guest does."""
        for start in range(position // _BLOCK * _BLOCK, position + len(data), _BLOCK):
            block = bytearray(self.blocks.get(start, b"").ljust(_BLOCK, b"\0"))
            first, last = max(start, position), min(start + _BLOCK, position + len(data))
            block[first - start : last - start] = data[first - position : last - position]
            self.blocks[start] = bytes(block)

    def write_file(self, path: Path) -> None:
        with path.open("wb") as file:
            for position, block in self.blocks.items():
                file.seek(position)
                file.write(block)
            file.truncate(self.size)

    def bytes(self) -> bytes:
        data = bytearray(self.size)
        for position, block in self.blocks.items():
            data[position : position + len(block)] = block
        return bytes(data[: self.size])

    @property
    def allocated(self) -> int:
        return sum(map(len, self.blocks.values()))

    def tables(self) -> list[Blocks]:
        """The present blocks, and those of the snapshots."""
        return [self.blocks, *(blocks for _, blocks in self.snapshots.values())]


def held(contents: Iterable[Content]) -> int:
    """Bytes of memory for all of them; blocks that are shared count once."""
    tables = [table for content in contents for table in content.tables()]
    return sum({id(block): len(block) for table in tables for block in table.values()}.values())


class MemoryDisk(Disk, Snapshotting, Importing):
    """An entry of its backend's table."""

    format = DiskFormat.RAW

    def __init__(self, backend: MemoryBackend, instance: str, name: str) -> None:
        for word, what in ((name, "name of a disk"), (instance, "UUID of an instance")):
            if not _NAME.fullmatch(word):
                raise InvalidRequest(reason=f"{word!r} cannot be the {what}")
        self.backend = backend
        self.instance = instance
        self.name = name

    @property
    def _key(self) -> tuple[str, str]:
        return self.instance, self.name

    @property
    def _label(self) -> str:
        return f"{self.name} of instance {self.instance}"

    def exists(self) -> bool:
        return self._key in self.backend.table

    def create(
        self, size: int = 0, base: Base | None = None, *, encrypt: bool = False, progress: Progress = SILENT
    ) -> None:
        _refuse_encryption(encrypt)
        if base and base.format != DiskFormat.RAW:
            raise InvalidRequest(reason=f"a disk in memory needs a raw base, not {base.format}")
        content = Content(self._wanted(size, base.virtual_size if base else 0))
        self._refuse_existing()
        if base:
            content.read_file(base.path, progress)
        self._publish(content)

    def fill(self, data: bytes, size: int = 0) -> None:
        """Make the disk with ``data`` in it, grown to ``size``. :raises DiskTooSmall: :raises NameTaken:"""
        content = Content(self._wanted(size, len(data)))
        content.write(0, data)
        self._publish(content)

    def _wanted(self, size: int, least: int) -> int:
        if 0 < size < least:
            raise DiskTooSmall(disk=self.name, size=size, needed=least)
        size = least if size == 0 else size
        if size <= 0:
            raise InvalidRequest(reason=f"disk {self.name} needs a size")
        return -(-size // _SECTOR) * _SECTOR

    def _refuse_existing(self) -> None:
        if self.exists():
            raise NameTaken(kind="disk", name=self._label)

    def _publish(self, content: Content) -> None:
        with self.backend.lock:
            self._refuse_existing()
            self.backend.table[self._key] = content

    def _content(self) -> Content:
        try:
            return self.backend.table[self._key]
        except KeyError:
            raise DiskNotFound(name=self._label) from None

    def read(self) -> bytes:
        """All of it. :raises DiskNotFound:"""
        return self._content().bytes()

    def write(self, offset: int, data: bytes) -> None:
        """What a guest would do. :raises DiskNotFound:"""
        self._content().change(offset, data)

    def resize(self, size: int) -> None:
        content = self._content()
        size = -(-size // _SECTOR) * _SECTOR
        if size < content.size:
            raise DiskTooSmall(disk=self.name, size=size, needed=content.size)
        content.size = size

    def delete(self) -> None:
        self.backend.table.pop(self._key, None)

    def info(self) -> DiskInfo:
        content = self._content()
        return DiskInfo(self.format, content.size, content.allocated)

    def source(self) -> DiskSource:
        """No domain can open it; it names the disk all the same."""
        self._content()
        return DiskSource(DiskType.NETWORK, self.format, protocol="memory", name=f"{self.instance}/{self.name}")

    def extract(
        self,
        target: Path,
        format: DiskFormat,
        *,
        compress: bool = False,
        plaintext: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        from cowshed.tools import transfer

        content = self._content()
        with tempfile.TemporaryDirectory(prefix="cowshed-") as place:
            path = Path(place) / "content"
            content.write_file(path)
            source = DiskSource(DiskType.FILE, DiskFormat.RAW, path)
            transfer.export(source, target, format, compress=compress, progress=progress)

    def import_file(self, path: Path, *, encrypt: bool = False) -> None:
        _refuse_encryption(encrypt)
        with filesystem.errors_of(path, "take over"):
            content = Content(self._wanted(path.stat().st_size, 0))
        self._refuse_existing()
        content.read_file(path)
        self._publish(content)
        path.unlink()

    # --- snapshots ------------------------------------------------------------------------------

    def take(self, name: str, *, progress: Progress = SILENT) -> None:
        if not _SNAPSHOT.fullmatch(name):
            raise InvalidRequest(reason=f"{name!r} cannot be the name of a snapshot")
        with self.backend.lock:
            content = self._content()
            if name in content.snapshots:
                raise NameTaken(kind="snapshot", name=f"{name} of {self._label}")
            taken = DiskSnapshot(name, clock.current().time(), content.size, content.snapshot)
            content.snapshots[name] = taken, dict(content.blocks)
            content.snapshot = name

    def snapshots(self) -> Sequence[DiskSnapshot]:
        return [snapshot for snapshot, _ in self._content().snapshots.values()]

    def roll_back(self, name: str, *, progress: Progress = SILENT) -> None:
        with self.backend.lock:
            content = self._content()
            snapshot, blocks = self._kept(content, name)
            content.size, content.blocks, content.snapshot = snapshot.virtual_size, dict(blocks), name

    def remove(self, name: str) -> None:
        with self.backend.lock:
            content = self._content()
            gone, _ = self._kept(content, name)
            del content.snapshots[name]
            for other, (snapshot, blocks) in content.snapshots.items():
                if snapshot.parent == name:
                    content.snapshots[other] = replace(snapshot, parent=gone.parent), blocks
            content.snapshot = gone.parent if content.snapshot == name else content.snapshot

    def _kept(self, content: Content, name: str) -> tuple[DiskSnapshot, dict[int, bytes]]:
        try:
            return content.snapshots[name]
        except KeyError:
            raise SnapshotNotFound(name=f"{name} of {self._label}") from None


def _refuse_encryption(encrypt: bool) -> None:
    if encrypt:
        raise UnsupportedOperation(subject="a disk in memory", operation="be encrypted", reason="it has no way to")


class MemoryBackend(Backend):
    """A place for disks that ends with the process.

    :param name: what it is called; the driver finds backends by their names
    :param size: bytes it says it has
    """

    name = "memory"

    def __init__(self, name: str = "memory", *, size: int = TiB) -> None:
        self._called = name
        self._size = size
        self.table: dict[tuple[str, str], Content] = {}
        self.lock = threading.Lock()

    @property
    def traits(self) -> Traits:
        return Traits(name=self._called, snapshots=True, instant_snapshot=True, importing=True)

    def disk(self, instance: str, name: str) -> MemoryDisk:
        return MemoryDisk(self, instance, name)

    def disks(self, instance: str) -> Sequence[MemoryDisk]:
        return [self.disk(owner, name) for owner, name in list(self.table) if owner == instance]

    def _contents(self) -> list[Content]:
        return list(self.table.values())

    def capacity(self) -> Capacity:
        used = held(self._contents())
        return Capacity(total=self._size, free=max(0, self._size - used), used=used)
