"""The disk contract: what every backend promises, and the optional roles it may announce.

A *backend* is a place where disks live. A *disk* is a handle: making one does no I/O and has no
side effects. The life of a disk::

    backend.disk(uuid, "disk")  ->  exists() False
        create(size, base)      ->  exists() True, complete and durable
        activate()              ->  a guest on this host may open source()
        resize, info, source, extract ...
        delete()                ->  exists() False; deleting again is success

Promises of every method: a name that exists is complete (written under another name, synced,
renamed); a ``create`` that fails removes only what it made itself; formats are given, never
probed; bytes a guest could write are never read to decide anything. The manifest of the instance
is the authority for format, place, size and parent: a disk stays where it was made, whatever the
backend is configured to later.

Optional roles are classes of their own. A disk that is Snapshotting, Importing, Clonable or a
DirectUpload inherits from it, a backend that is BaseKeeping or Cloning too; the traits say the
same in words.

Not in this contract: XML, image services, the cache, configuration, root, bus names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Protocol, TypeAlias, runtime_checkable

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.model.disk import Base, Capacity, DiskFormat, DiskInfo, DiskSnapshot, DiskSource, KeptBase, ManifestDisk
from cowshed.model.image import Location


@dataclass(frozen=True, slots=True)
class Traits:
    """Facts about a backend, for callers that must choose. Each is true: a test tries it.

    ``instant_clone``: a disk from a base costs the same whatever the base's size *here*, on this
    file system. ``base_format``: the format a base must have for ``create``. ``keeps_bases``: bases
    live in the backend's own storage (BaseKeeping), not in the cache. ``shared``: other hosts see
    the same disks. ``grows_online``: resize works while a guest runs. ``instant_snapshot``: a
    snapshot costs the same whatever the disk's size. ``direct_upload``: a snapshot becomes an image
    without passing through this host.
    """

    name: str
    block: bool = False
    shared: bool = False
    base_format: DiskFormat = DiskFormat.RAW
    disk_format: DiskFormat = DiskFormat.RAW
    keeps_bases: bool = False
    instant_clone: bool = False
    grows_online: bool = True
    snapshots: bool = False
    instant_snapshot: bool = False
    encrypts: bool = False
    preallocates: bool = False
    importing: bool = False
    clones_images: bool = False
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
    def create(
        self, size: int = 0, base: Base | None = None, *, encrypt: bool = False, progress: Progress = SILENT
    ) -> None:
        """Make the disk: blank, or with the content of ``base``, grown to ``size``.

        :param size: bytes a guest will see; 0 with a base means the base's size
        :param encrypt: with a new key of its own, which the backend's key source holds before the
            disk exists and until it is deleted
        :raises DiskTooSmall: ``size`` is smaller than the base; nothing was made
        :raises NameTaken: the disk exists already; it is left as it is
        :raises NoSpace: there is no room; what was made is removed
        :raises UnsupportedOperation: this backend cannot encrypt; nothing was made
        """

    @abstractmethod
    def resize(self, size: int) -> None:
        """Grow to ``size`` bytes; the present size is success.

        :raises DiskTooSmall: ``size`` is smaller than the disk; it is never cut
        :raises DiskNotFound:
        """

    @abstractmethod
    def delete(self) -> None:
        """Remove it, its snapshots and its key; already gone is success."""

    @abstractmethod
    def info(self) -> DiskInfo:
        """:raises DiskNotFound:"""

    @abstractmethod
    def source(self) -> DiskSource:
        """What domain XML needs, with explicit formats down the chain. :raises DiskNotFound:"""

    @abstractmethod
    def extract(
        self,
        target: Path,
        format: DiskFormat,
        *,
        compress: bool = False,
        plaintext: bool = False,
        progress: Progress = SILENT,
    ) -> None:
        """Write the whole content to a standalone file; the disk must not be in use.

        :param format: raw or qcow2
        :param compress: qcow2 only: compress the clusters, on all cores
        :param plaintext: of an encrypted disk: decrypt it. Otherwise the file is encrypted (LUKS)
            with the disk's own key
        :raises DiskNotFound:
        :raises InvalidRequest: the format cannot be written, or compressed, or both compressed and encrypted
        :raises NoSpace: nothing is left at ``target``
        """

    def activate(self) -> None:  # noqa: B027 - nothing to do for most
        """Before a guest of this host opens it: volumes, mappings and what a crash left are put right.

        :raises DiskNotFound: :raises NotFound: its key is gone
        """

    def deactivate(self) -> None:  # noqa: B027
        """After the guest has ended; not active is success."""


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

    def measure(self, instance: str, entry: ManifestDisk) -> DiskInfo | None:
        """Facts of a disk as the manifest names it, for whoever counts many; None: it is not there.

        The same as :meth:`Disk.info`, without a look at the manifest again.
        """
        disk = self.disk(instance, entry.name)
        return disk.info() if disk.exists() else None

    @abstractmethod
    def capacity(self) -> Capacity:
        """Total, free and used bytes of the place.

        :raises NotFound: the place is not there (a pool, a volume group)
        """

    def secret(self, uuid: str) -> tuple[str, bytes] | None:
        """(name, value) of the libvirt secret that :meth:`Disk.source` names, to be defined before a guest starts.

        None: it is not this backend's, or the operator keeps it in libvirt himself.
        """
        return None

    def clean(self) -> None:  # noqa: B027
        """Finish what killed processes left half done: deletions, clearing, temporary names. Quick when there is nothing."""


# --- optional roles of a disk ---------------------------------------------------------------------


class Snapshotting(ABC):
    """A disk that keeps points in time. The disk must not be in use, unless its traits say more."""

    @abstractmethod
    def take(self, name: str, *, progress: Progress = SILENT) -> None:
        """:raises NameTaken: it has a snapshot of this name
        :raises InvalidRequest: the name cannot be one (letters, digits, ``._-``, 64 at most)
        """

    @abstractmethod
    def snapshots(self) -> Sequence[DiskSnapshot]:
        """Oldest first. :raises DiskNotFound:"""

    @abstractmethod
    def roll_back(self, name: str, *, progress: Progress = SILENT) -> None:
        """Content and size are those of the snapshot again; it and all others stay.

        :raises SnapshotNotFound:
        """

    @abstractmethod
    def remove(self, name: str) -> None:
        """Forget the snapshot; the disk's content stays.

        :raises SnapshotNotFound:
        :raises Busy: something stands on it
        """


class Importing(ABC):
    """A disk that can take over a finished local raw file."""

    @abstractmethod
    def import_file(self, path: Path, *, encrypt: bool = False) -> None:
        """The disk exists with the content of ``path``, which is gone afterwards.

        :param encrypt: as in :meth:`Disk.create`
        :raises NameTaken: the disk exists already; ``path`` is left as it is
        :raises UnsupportedOperation: it cannot be encrypted; ``path`` is left as it is
        """


class Sealing(ABC):
    """A disk that is encrypted by other means than QEMU's, and takes over what QEMU has encrypted: never in clear on a disk."""

    @abstractmethod
    def import_sealed(self, path: Path, key: bytes, *, progress: Progress = SILENT) -> None:
        """The disk exists, encrypted with a key of its own, with the content of ``path``, which is gone afterwards.

        :param path: a finished raw file, encrypted (LUKS) with ``key``
        :raises NameTaken: the disk exists already :raises DataCorrupt: it has no LUKS header :raises NoSpace:
        """


class Clonable(ABC):
    """A disk that can stand on an image inside its own storage."""

    @abstractmethod
    def clone(self, location: Location, size: int = 0) -> None:
        """Make the disk on what ``location`` names, grown to ``size`` bytes (0: as large as it is).

        :raises InvalidRequest: the location is not in this storage (see :meth:`Cloning.cloneable`)
        :raises DiskTooSmall: :raises NameTaken:
        """

    @abstractmethod
    def flatten(self, *, background: bool = False, progress: Progress = SILENT) -> None:
        """Copy what it still reads from its parent; without a parent that is done already.

        :param background: leave the copying to the storage; it may still go on when this returns
        """


class DirectUpload(ABC):
    """A disk of which the image service can take a snapshot inside the storage."""

    @abstractmethod
    def upload(
        self,
        image_id: str,
        *,
        near: Sequence[Location] = (),
        still: AbstractContextManager[object] | None = None,
        progress: Progress = SILENT,
    ) -> Location:
        """A new image of the disk's present content, made without passing through this host.

        :param near: locations of the image the disk came from: the new one lies beside them
        :param still: held while the point in time is taken, and no longer
        :return: what the image service shall register; it is complete and protected
        :raises UnsupportedOperation: no place both can reach
        :raises PermissionDenied: nothing is left behind after any error
        """

    @abstractmethod
    def discard(self, location: Location) -> None:
        """Take :meth:`upload` back, for a service that would not register it; already gone is success."""

    @abstractmethod
    def clean_upload(self, image_id: str, *, near: Sequence[Location] = ()) -> None:
        """Remove what a process that died in :meth:`upload`, or before it was registered, has left."""


# --- optional roles of a backend ------------------------------------------------------------------


class ContentSink(Protocol):
    """Where the content of a base goes: whole chunks in any order, from several threads.

    The place is all zeros before, so chunks of zeros need not be written. ``written``: bytes of data
    so far.
    """

    size: int
    written: int

    def write(self, start: int, data: memoryview) -> None:
        """Store ``data``, which lies page-aligned in memory and is used again afterwards."""

    def digest(self) -> str:
        """Over the whole content, as ``cowshed.tools.transfer.digest_of`` makes it."""

    def close(self) -> None:
        """Nothing is in flight any more."""


# (size in bytes, bytes of it that hold data as far as is known) -> sink. :raises NoSpace:
OpenSink: TypeAlias = Callable[[int, int], ContentSink]


@dataclass(frozen=True, slots=True)
class BaseContent:
    """What was written: bytes a guest sees, digest of the sink, digest of the stored image."""

    virtual_size: int
    digest: str
    source_digest: str = ""


FillBase: TypeAlias = Callable[[OpenSink], BaseContent]


class BaseKeeping(ABC):
    """A backend that keeps bases in its own storage, once for all hosts that share it."""

    @abstractmethod
    def find_base(self, name: str) -> Base | None:
        """The complete base of this name (the cache's names: ``images.cache.name_of``), or None."""

    @abstractmethod
    def add_base(self, name: str, image_id: str, fill: FillBase, *, progress: Progress = SILENT) -> Base:
        """The base ``name``, made by ``fill`` if it is not there; however many ask, one fills.

        :raises Busy: somebody else's fill takes longer than is configured
        :raises NoSpace: nothing is left behind, after this and every other error
        """

    @abstractmethod
    def bases(self) -> Sequence[KeptBase]:
        """All complete bases."""

    @abstractmethod
    def remove_base(self, name: str) -> None:
        """Already gone is success. :raises Busy: disks stand on it"""


class Cloning(ABC):
    """A backend whose disks are Clonable."""

    @abstractmethod
    def cloneable(self, location: Location, format: DiskFormat) -> bool:
        """Can a disk stand on this location: same storage, raw content, readable? Raises nothing for a no."""


@runtime_checkable
class KeySource(Protocol):
    """Where the keys of encrypted disks are. A key is a passphrase of printable ASCII bytes."""

    def create(self, key_id: str) -> bytes:
        """A new random key, durable when this returns. :raises NameTaken:"""

    def keep(self, key_id: str, key: bytes) -> None:
        """A key that was made elsewhere, durable when this returns. :raises NameTaken:"""

    def get(self, key_id: str) -> bytes:
        """:raises NotFound:"""

    def delete(self, key_id: str) -> None:
        """Already gone is success."""
