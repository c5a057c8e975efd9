"""The disk contract: what every backend promises, and the optional roles it may announce.

A *backend* is a place where disks live. A *disk* is a handle: making one does no I/O and has no
side effects. The life of a disk::

    backend.disk(uuid, "disk")  ->  exists() False
        create(size, base)      ->  exists() True, complete and durable
        resize, info, source, extract ...
        delete()                ->  exists() False; deleting again is success

Promises of every method: a name that exists is complete (written under another name, synced,
renamed); a ``create`` that fails removes only what it made itself; formats are given, never
probed; bytes a guest could write are never read to decide anything. The manifest of the instance
is the authority for format, size and parent.

Not in this contract: XML, image services, the cache, configuration, root, bus names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, runtime_checkable

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.model.disk import Base, Capacity, DiskFormat, DiskInfo, DiskSource


@dataclass(frozen=True, slots=True)
class Traits:
    """Facts about a backend, for callers that must choose. Each is true: a test tries it.

    ``instant_clone``: a disk from a base costs the same whatever the base's size *here*, on this
    file system. ``base_format``: the format a base must have for ``create``. ``shared``: other
    hosts see the same disks. ``grows_online``: resize works while a guest runs.
    """

    name: str
    block: bool = False
    shared: bool = False
    base_format: DiskFormat = DiskFormat.RAW
    disk_format: DiskFormat = DiskFormat.RAW
    instant_clone: bool = False
    grows_online: bool = True
    snapshots: bool = False
    encrypts: bool = False
    preallocates: bool = False
    importing: bool = False
    direct_upload: bool = False


class Disk(ABC):
    """One disk of one instance. ``name`` is the logical name, such as ``disk`` or ``disk.eph0``."""

    name: str
    instance: str
    format: DiskFormat

    @abstractmethod
    def exists(self) -> bool:
        """Is there a complete disk under this name?"""

    @abstractmethod
    def create(self, size: int = 0, base: Base | None = None, *, progress: Progress = SILENT) -> None:
        """Make the disk: blank, or with the content of ``base``, grown to ``size``.

        :param size: bytes a guest will see; 0 with a base means the base's size
        :raises DiskTooSmall: ``size`` is smaller than the base; nothing was made
        :raises NameTaken: the disk exists already; it is left as it is
        :raises NoSpace: there is no room; what was made is removed
        """

    @abstractmethod
    def resize(self, size: int) -> None:
        """Grow to ``size`` bytes; the present size is success.

        :raises DiskTooSmall: ``size`` is smaller than the disk; it is never cut
        :raises DiskNotFound:
        """

    @abstractmethod
    def delete(self) -> None:
        """Remove it; already gone is success."""

    @abstractmethod
    def info(self) -> DiskInfo:
        """:raises DiskNotFound:"""

    @abstractmethod
    def source(self) -> DiskSource:
        """What domain XML needs, with explicit formats down the chain. :raises DiskNotFound:"""

    @abstractmethod
    def extract(self, target: Path, format: DiskFormat, *, compress: bool = False, progress: Progress = SILENT) -> None:
        """Write the whole content to a standalone file; the disk must not be in use.

        :param format: raw or qcow2
        :param compress: qcow2 only: compress the clusters, on all cores
        :raises DiskNotFound:
        :raises NoSpace: nothing is left at ``target``
        """


class Backend(ABC):
    """A place where disks live, configured once."""

    name: ClassVar[str]

    @property
    @abstractmethod
    def traits(self) -> Traits:
        """What holds here and now (a reflink, for one, depends on the file system)."""

    @abstractmethod
    def disk(self, instance: str, name: str) -> Disk:
        """A handle for disk ``name`` of the instance with this UUID. No I/O."""

    @abstractmethod
    def disks(self, instance: str) -> Sequence[Disk]:
        """All disks of the instance that exist here."""

    @abstractmethod
    def capacity(self) -> Capacity:
        """Total, free and used bytes of the place."""


@runtime_checkable
class Snapshotting(Protocol):
    """A disk that keeps points in time."""

    def take(self, name: str) -> None: ...
    def snapshots(self) -> Sequence[str]: ...
    def roll_back(self, name: str) -> None: ...
    def remove(self, name: str) -> None: ...


@runtime_checkable
class Importing(Protocol):
    """A disk that can take over a finished local file."""

    def import_file(self, path: Path) -> None: ...
