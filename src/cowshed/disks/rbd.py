"""rbd: images in a Ceph pool that all hosts see; from a base or an image of the cluster: a clone.

The manifest says in which pool a disk is. A disk's image is ``<uuid>_<disk>``, made in one step (a
clone, or a rename of what is complete); only growing a clone to its size comes after, and whoever
opens the disk finishes that (:meth:`RbdDisk.activate`).
"""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Final

from cowshed.config import RbdSection
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import (
    Backend,
    Clonable,
    Cloning,
    DirectUpload,
    Importing,
    Snapshotting,
    Traits,
)
from cowshed.disks import lineage, manifest
from cowshed.disks.rbd_bases import BASE, PART, RbdBases, copied, filled, filling, key_of, new_part
from cowshed.disks.recorded import RecordedDisk, recorded
from cowshed.errors import (
    Busy,
    InvalidRequest,
    NameTaken,
    NotFound,
    PermissionDenied,
    SnapshotNotFound,
    UnsupportedOperation,
)
from cowshed.model.disk import Base, Capacity, DiskFormat, DiskSnapshot, DiskSource, DiskType, ManifestDisk
from cowshed.model.image import Location
from cowshed.tools import filesystem
from cowshed.tools.rbd import Access, Cluster, ImageSpec, Pool, RbdLayer, Url, cluster, direct, parse_url
from cowshed.undo import Undo

_SNAPSHOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_SECRETS: Final = uuid.UUID("0d4b6a52-7d0f-4f38-9d53-6d2f52ab7f0e")


class RbdDisk(RecordedDisk, Snapshotting, Importing, Clonable, DirectUpload):
    """``<pool>[/<namespace>]/<uuid>_<name>``."""

    format = DiskFormat.RAW
    backend = "rbd"

    def __init__(self, place: RbdBackend, instance: str, name: str) -> None:
        super().__init__(place.instances, instance, name)
        self._place = place

    def _new_location(self) -> str:
        return str(self._place.pool.spec(f"{self.instance}_{self.name}"))

    def _where(self) -> tuple[Pool, str]:
        spec = ImageSpec.parse(self.location())
        return self._place.pool_of(spec), spec.image

    def exists(self) -> bool:
        pool, image = self._where()
        return pool.exists(image)

    # --- it comes into being --------------------------------------------------------------------

    def create(
        self, size: int = 0, base: Base | None = None, *, encrypt: bool = False, progress: Progress = SILENT
    ) -> None:
        self._refuse_encryption(encrypt)
        size = self._wanted(size, base)
        if base is None:
            return self._make(size, None, lambda pool, image: pool.create(image, size))
        self._refuse_existing()
        if parent := self._place.standing_on(base, progress):
            return self._make(size, base, lambda pool, image: _clone(*parent, pool, image, base.virtual_size, size))
        self._import(base.path, base.virtual_size, size, base, progress)

    def clone(self, location: Location, size: int = 0) -> None:
        url = self._place.url_here(location)
        parent = self._place.pool_of(url.spec)
        there = parent.size(url.spec.image, url.snapshot)
        size = self._wanted(size, Base(Path(), DiskFormat.RAW, there))
        self._make(
            size,
            None,
            lambda pool, image: _clone(parent, url.spec.image, url.snapshot, pool, image, there, size),
        )

    def import_file(self, path: Path, *, encrypt: bool = False) -> None:
        self._refuse_encryption(encrypt)
        with filesystem.errors_of(path, "take over"):
            there = path.stat().st_size
        self._import(path, there, self._wanted(there, None), None, SILENT)
        filesystem.remove_file(path)

    def _import(self, path: Path, there: int, size: int, base: Base | None, progress: Progress) -> None:
        """The content of a raw file, complete before the image gets its name."""
        self._refuse_existing()
        pool, part = self._place.pool, new_part(self.instance)
        with filling(pool, self.instance, f"disk {self.label}", progress), Undo() as undo:
            undo.push("remove an unfinished disk", pool.remove, part)
            filled(pool, part, lambda opened: copied(path, size, opened, progress))
            self._make(size, base, lambda pool, image: pool.rename(part, image))
            undo.drop()

    def _make(self, size: int, base: Base | None, make: Callable[[Pool, str], object]) -> None:
        """The line of the manifest is durable, then ``make`` gives the image its name in one step."""
        unsynced = filesystem.make_directory_unsynced(self.directory)
        entry = self._described(size, base)
        spec = ImageSpec.parse(entry.location)
        pool = self._place.pool_of(spec)
        try:
            with manifest.recording(self.directory, entry, taken=lambda: pool.exists(spec.image)):
                for place in (self.directory, *unsynced):
                    filesystem.sync_directory(place)
                make(pool, spec.image)
        except BaseException:
            if unsynced:
                with suppress(OSError):
                    self.directory.rmdir()
            raise

    # --- its life -------------------------------------------------------------------------------

    def activate(self) -> None:
        """A crash between cloning and growing leaves it smaller than the manifest says."""
        entry = self._entry()
        self._grow(entry, entry.virtual_size)

    def _grow(self, entry: ManifestDisk, size: int) -> None:
        """What libvirt has grown for a running guest is only recorded."""
        pool, image = self._where()
        if pool.size(image) < size:
            pool.resize(image, size)

    def _allocated(self, entry: ManifestDisk) -> int:
        pool, image = self._where()
        return pool.allocated(image)

    def delete(self) -> None:
        """What the manifest does not name is not ours, whatever it is called."""
        if not (self.directory / manifest.FILE).exists():
            return
        with manifest.editing(self.directory) as disks:
            entry = disks.get(self.name)
            if entry is None or entry.backend != self.backend:
                return
            spec = ImageSpec.parse(entry.location)
            self._place.pool_of(spec).remove(spec.image)
            del disks[self.name]

    def source(self) -> DiskSource:
        self._entry()
        found = self._place.cluster
        cephx = found.uses_cephx()
        return DiskSource(
            DiskType.NETWORK,
            self.format,
            protocol="rbd",
            name=self.location(),
            hosts=found.monitors(),
            auth_user=found.user if cephx else "",
            secret_uuid=self._place.secret_uuid if cephx else "",
        )

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

        entry = self._entry()
        transfer.check_export(format, compress=compress)
        pool, image = self._where()
        with pool.open(image, read_only=True, action="read") as opened:
            layer = RbdLayer(
                opened, entry.location, size=entry.virtual_size, seconds=pool.cluster.access.operation_timeout
            )
            transfer.export_layer(layer, target, format, compress=compress, progress=progress)

    # --- snapshots --------------------------------------------------------------------------------

    def take(self, name: str, *, progress: Progress = SILENT) -> None:
        if not _SNAPSHOT.fullmatch(name):
            raise InvalidRequest(
                reason=f"{name!r} cannot be the name of a snapshot", hint="letters, digits, ._- and 64 at most"
            )
        pool, image = self._present()
        with manifest.editing(self.directory) as disks:  # of two at once, librbd tells both that they took it
            entry = self._entry()
            if name in [found.name for found in pool.snapshots(image)]:
                raise NameTaken(kind="snapshot", name=f"{name} of {self.label}")
            pool.take(image, name)
            disks[self.name] = lineage.taken(entry, name)

    def snapshots(self) -> Sequence[DiskSnapshot]:
        """Which there are, the cluster knows; what each came from, the manifest."""
        pool, image = self._present()
        parents = {snapshot.name: snapshot.parent for snapshot in self._entry().snapshots}
        return [
            DiskSnapshot(found.name, found.created, found.size, parents.get(found.name))
            for found in pool.snapshots(image)
            if not found.name.startswith(direct.TEMPORARY)
        ]

    def roll_back(self, name: str, *, progress: Progress = SILENT) -> None:
        pool, image = self._present()
        if name not in [found.name for found in self.snapshots()]:
            raise SnapshotNotFound(name=f"{name} of {self.label}")
        if pool.in_use(image):
            raise Busy(what=f"disk {self.label}", holder="a guest", hint="stop the instance first")
        with manifest.editing(self.directory) as disks:
            pool.roll_back(image, name)
            disks[self.name] = replace(self._entry(), virtual_size=pool.size(image), snapshot=name)

    def remove(self, name: str) -> None:
        pool, image = self._present()
        with manifest.editing(self.directory) as disks:
            pool.remove_snapshot(image, name)
            disks[self.name] = lineage.without(self._entry(), name)

    def _present(self) -> tuple[Pool, str]:
        self._entry()
        return self._where()

    # --- its parent, and images made of it --------------------------------------------------------

    def flatten(self, *, background: bool = False, progress: Progress = SILENT) -> None:
        pool, image = self._present()
        if pool.parent(image) is None:
            return
        if background:
            return pool.flatten_later(image)
        progress.phase("flatten")
        pool.flatten(image)

    def upload(self, image_id: str, *, near: Sequence[Location] = (), progress: Progress = SILENT) -> Location:
        if not _IMAGE.fullmatch(image_id):
            raise InvalidRequest(reason=f"{image_id!r} cannot be the id of an image")
        pool, image = self._present()
        target = self._image_pool(pool, image, near)
        return Location(str(direct.upload(pool, image, target, image_id, progress=progress)))

    def _image_pool(self, pool: Pool, image: str, near: Sequence[Location]) -> Pool:
        """Where the image service keeps its images: beside those the disk came from."""
        for location in near:
            if url := self._place.try_url(location):
                return self._place.pool_of(url.spec)
        parent = pool.parent(image)
        if parent and not parent[0].image.startswith(BASE):
            return self._place.pool_of(parent[0])
        raise UnsupportedOperation(
            subject=f"disk {self.label}",
            operation="become an image in place",
            reason="the image it came from is not in this Ceph cluster",
        )

    def clean_upload(self, image_id: str, *, near: Sequence[Location] = ()) -> None:
        pool, image = self._present()
        try:
            target = self._image_pool(pool, image, near)
        except UnsupportedOperation:
            return  # it did not get far
        direct.clean(pool, image, target, image_id)

    def discard(self, location: Location) -> None:
        if url := self._place.try_url(location):
            direct.discard(self._place.pool_of(url.spec), url.spec.image)


def _clone(parent: Pool, image: str, snapshot: str, pool: Pool, name: str, there: int, size: int) -> None:
    """``name`` in ``pool`` on the snapshot, which has ``there`` bytes, grown to ``size``."""
    pool.clone(parent, image, snapshot, name)
    if size > there:
        with Undo() as undo:
            undo.push("remove the clone", pool.remove, name)
            pool.resize(name, size)


class RbdBackend(RbdBases, Cloning, Backend):
    """A pool of a Ceph cluster. Disks that were made in another pool stay there."""

    name = "rbd"

    def __init__(self, instances: Path, section: RbdSection) -> None:
        self.instances = instances
        self.section = section

    @property
    def cluster(self) -> Cluster:
        """This process's connection."""
        section = self.section
        return cluster(
            Access(section.user, section.ceph_conf, section.keyring, section.connect_timeout, section.operation_timeout)
        )

    @property
    def pool(self) -> Pool:
        return Pool(self.cluster, self.section.pool, self.section.namespace)

    @property
    def secret_uuid(self) -> str:
        """Of the libvirt secret that holds the cluster's key for guests of this host."""
        return self.section.secret_uuid or str(uuid.uuid5(_SECRETS, f"{self.cluster.fsid}/{self.cluster.user}"))

    def secret(self, uuid: str) -> tuple[str, bytes] | None:
        """libvirt wants the key as bytes, and encodes it for QEMU itself."""
        if self.section.secret_uuid or uuid != self.secret_uuid:
            return None
        found = self.cluster
        return f"cowshed client.{found.user} of {found.fsid}", base64.b64decode(found.key())

    @property
    def traits(self) -> Traits:
        return Traits(
            name=self.name,
            shared=True,
            keeps_bases=True,
            instant_clone=True,
            snapshots=True,
            instant_snapshot=True,
            importing=True,
            clones_images=True,
            direct_upload=True,
        )

    def disk(self, instance: str, name: str) -> RbdDisk:
        return RbdDisk(self, instance, name)

    def disks(self, instance: str) -> Sequence[RbdDisk]:
        disks = [self.disk(instance, entry.name) for entry in recorded(self.instances, instance, self.name)]
        return [disk for disk in disks if disk.exists()]

    def capacity(self) -> Capacity:
        return self.pool.capacity()

    def clean(self) -> None:
        """Unfinished disks and bases of processes that died, and what clones in the trash have let go of."""
        for part in self.pool.images(PART):
            with suppress(Busy), filling(self.pool, key_of(part), "what is unfinished", timeout=0):
                self.pool.remove(part, patience=0)
        self.pool.purge()

    # --- images of an image service ---------------------------------------------------------------

    def cloneable(self, location: Location, format: DiskFormat) -> bool:
        url = self.try_url(location)
        if url is None or format not in (DiskFormat.RAW, DiskFormat.ISO):
            return False
        try:
            self.pool_of(url.spec).size(url.spec.image, url.snapshot)
        except (NotFound, PermissionDenied):
            return False
        return True

    def try_url(self, location: Location) -> Url | None:
        """None: it is not in this cluster."""
        try:
            return self.url_here(location)
        except InvalidRequest:
            return None

    def url_here(self, location: Location) -> Url:
        """:raises InvalidRequest: it is not in this cluster"""
        url = parse_url(location.url)
        if url.fsid != self.cluster.fsid:
            raise InvalidRequest(reason=f"{location.url} is in another Ceph cluster, {url.fsid}")
        return url
