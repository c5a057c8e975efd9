"""A storage cluster in memory: bases of its own, clones of images that lie in it, snapshots.

What its disks are stands in the manifests, as with every real backend, so that a driver finds
them there. Disks share the blocks of what they came from.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import (
    BaseKeeping,
    Clonable,
    Cloning,
    ContentSink,
    FillBase,
    Traits,
)
from cowshed.disks import manifest
from cowshed.errors import (
    Busy,
    InvalidRequest,
    NoSpace,
    NotFound,
    UnsupportedOperation,
)
from cowshed.model.disk import Base, DiskFormat, DiskInfo, KeptBase, ManifestDisk
from cowshed.model.image import Location
from cowshed.testing.disks import Content, MemoryBackend, MemoryDisk
from cowshed.tools import filesystem
from cowshed.tools.transfer.sinks import Crcs
from cowshed.units import TiB

SCHEME = "memory://"


class ClusterDisk(MemoryDisk, Clonable):
    """An entry of its cluster's table, and a line in the instance's manifest."""

    backend: MemoryCluster

    # --- where it is --------------------------------------------------------------------------

    @property
    def directory(self) -> Path:
        return self.backend.instances / self.instance

    def location(self) -> str:
        entry = manifest.find(self.directory, self.name)
        if entry and entry.backend == self.backend.traits.name:
            return entry.location
        return f"{self.backend.pool}/{self.instance}_{self.name}"

    @property
    def _key(self) -> tuple[str, str]:
        pool, _, name = self.location().rpartition("/")
        return pool, name

    # --- make ---------------------------------------------------------------------------------

    def create(
        self, size: int = 0, base: Base | None = None, *, encrypt: bool = False, progress: Progress = SILENT
    ) -> None:
        if encrypt:
            raise UnsupportedOperation(subject="a disk in memory", operation="be encrypted", reason="it has no way to")
        if base is None:
            return self._publish(Content(self._wanted(size, 0)))
        if base.format != DiskFormat.RAW:
            raise InvalidRequest(reason=f"a disk in memory needs a raw base, not {base.format}")
        if base.location not in self.backend.kept:
            raise NotFound(kind="base", name=base.location or base.path)
        content = self.backend.kept[base.location][1].copy()
        content.size = self._wanted(size, base.virtual_size)
        return self._publish(content, base)

    def clone(self, location: Location, size: int = 0) -> None:
        if location.url not in self.backend.images:
            raise InvalidRequest(reason=f"{location.url} is not in this storage")
        content = self.backend.images[location.url].copy()
        content.size = self._wanted(size, content.size)
        self._publish(content, Base(Path(), self.format, content.size, location=location.url))

    def flatten(self, *, background: bool = False, progress: Progress = SILENT) -> None:
        self._content()
        self.backend.parents.pop(self._key, None)

    def _publish(self, content: Content, base: Base | None = None) -> None:
        self._refuse_existing()
        self.backend.check_room(content.allocated)
        filesystem.make_directory(self.directory)
        entry = ManifestDisk(
            name=self.name,
            backend=self.backend.traits.name,
            format=self.format,
            location="/".join(self._key),
            virtual_size=content.size,
            base_digest=base.digest if base else None,
            image_id=base.image_id if base else "",
        )
        key = self._key
        with manifest.recording(self.directory, entry, taken=lambda: key in self.backend.table):
            self.backend.table[key] = content
        if base:
            self.backend.parents[key] = base.location

    # --- change -------------------------------------------------------------------------------

    def resize(self, size: int) -> None:
        super().resize(size)
        self._note(self._content().size)

    def _note(self, size: int) -> None:
        with manifest.editing(self.directory) as disks:
            disks[self.name] = replace(disks[self.name], virtual_size=size)

    def delete(self) -> None:
        key = self._key
        for table in (self.backend.table, self.backend.parents):
            table.pop(key, None)
        manifest.forget(self.directory, self.name)

    def info(self) -> DiskInfo:
        content = self._content()
        return DiskInfo(self.format, content.size, content.allocated)

    def activate(self) -> None:
        self._content()
        self.backend.active.add(self._key)

    def deactivate(self) -> None:
        self.backend.active.discard(self._key)

    def roll_back(self, name: str, *, progress: Progress = SILENT) -> None:
        super().roll_back(name, progress=progress)
        self._note(self._content().size)


class MemoryCluster(MemoryBackend, BaseKeeping, Cloning):
    """Keeps its bases, and clones the images that :meth:`add_image` puts into it.

    :param name: under which the driver knows it
    :param instances: the directory of the instances, whose manifests name its disks
    :param pool: where new disks go; those there already stay where they are
    """

    def __init__(self, name: str = "memory", *, instances: Path, size: int = TiB, pool: str = "pool") -> None:
        super().__init__(name, size=size)
        self.instances = instances
        self.pool = pool
        self.images: dict[str, Content] = {}
        self.kept: dict[str, tuple[Base, Content]] = {}
        self.parents: dict[tuple[str, str], str] = {}
        self.active: set[tuple[str, str]] = set()
        self.filled: list[str] = []  # names of the bases, as often as they were filled
        self.cleaned = 0
        self._filling = threading.Lock()

    @property
    def traits(self) -> Traits:
        return Traits(
            name=self._called,
            shared=True,
            keeps_bases=True,
            instant_clone=True,
            snapshots=True,
            instant_snapshot=True,
            importing=True,
            clones_images=True,
        )

    def disk(self, instance: str, name: str) -> ClusterDisk:
        return ClusterDisk(self, instance, name)

    def disks(self, instance: str) -> Sequence[ClusterDisk]:
        entries = manifest.load(self.instances / instance).disks.values()
        disks = [self.disk(instance, entry.name) for entry in entries if entry.backend == self._called]
        return [disk for disk in disks if disk.exists()]

    def clean(self) -> None:
        self.cleaned += 1

    def _contents(self) -> list[Content]:
        return [*super()._contents(), *(content for _, content in list(self.kept.values()))]

    def check_room(self, needed: int) -> None:
        """:raises NoSpace:"""
        if needed > (free := self.capacity().free):
            raise NoSpace(place=self._called, needed=needed, free=free)

    # --- images -------------------------------------------------------------------------------

    def add_image(self, name: str, data: bytes) -> Location:
        """An image of the image service that lies in this storage."""
        content = Content(len(data))
        content.write(0, data)
        location = Location(f"{SCHEME}{self._called}/{name}")
        self.images[location.url] = content
        return location

    def cloneable(self, location: Location, format: DiskFormat) -> bool:
        return format == DiskFormat.RAW and location.url in self.images

    # --- bases --------------------------------------------------------------------------------

    def find_base(self, name: str) -> Base | None:
        found = self.kept.get(f"{self.pool}/{name}")
        return found[0] if found else None

    def add_base(self, name: str, image_id: str, fill: FillBase, *, progress: Progress = SILENT) -> Base:
        with self._filling:
            if found := self.find_base(name):
                return found
            sinks: list[_Sink] = []

            def open_sink(size: int, data: int) -> ContentSink:
                self.check_room(data)
                sinks.append(_Sink(size))
                return sinks[0]

            written = fill(open_sink)
            content = sinks[0].content
            self.check_room(content.allocated)
            base = Base(
                Path(),
                DiskFormat.RAW,
                written.virtual_size,
                digest=written.digest,
                image_id=image_id,
                location=f"{self.pool}/{name}",
                source_digest=written.source_digest,
            )
            self.kept[base.location] = (base, content)
            self.filled.append(name)
            return base

    def bases(self) -> Sequence[KeptBase]:
        users = list(self.parents.values())
        return [
            KeptBase(location.rpartition("/")[2], base, content.allocated, users.count(location))
            for location, (base, content) in list(self.kept.items())
        ]

    def remove_base(self, name: str) -> None:
        location = f"{self.pool}/{name}"
        if location in self.parents.values():
            raise Busy(what=f"base {name}", holder="disks that stand on it")
        self.kept.pop(location, None)


class _Sink(ContentSink):
    """Into memory; a chunk lies on a block's beginning."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.written = 0
        self.content = Content(size)
        self._crcs = Crcs(size)

    def write(self, start: int, data: memoryview) -> None:
        self._crcs.write(start, data)
        self.content.write(start, bytes(data))
        self.written += len(data)

    def digest(self) -> str:
        return self._crcs.digest()

    def close(self) -> None:
        """Nothing is under way."""
