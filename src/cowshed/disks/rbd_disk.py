"""A disk in a Ceph pool: its image is ``<uuid>_<disk>``, in the pool that the manifest names.

An image is made in one step, a clone or a rename of what is complete. Only growing a clone to its
size comes after, and whoever opens the disk finishes that (:meth:`RbdDisk.activate`).
"""

from __future__ import annotations

import base64
import os
import re
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.storage import Clonable, DirectUpload, Importing, Snapshotting
from cowshed.disks import lineage, manifest, rbd_sealed
from cowshed.disks.encryption import check_extract, extract, key_of, new_encryption, new_key, require_source
from cowshed.disks.rbd_bases import BASE, copied, filled, filling, new_part
from cowshed.disks.rbd_replacing import RbdReplacing
from cowshed.errors import (
    Busy,
    CowshedError,
    DeadlineExceeded,
    InvalidRequest,
    NameTaken,
    SnapshotNotFound,
    UnsupportedOperation,
)
from cowshed.model.disk import (
    Base,
    DiskFormat,
    DiskSnapshot,
    DiskSource,
    DiskType,
    Encryption,
    EncryptionFormat,
    ManifestDisk,
)
from cowshed.model.image import Location
from cowshed.tools import filesystem, luks_header
from cowshed.tools.rbd import ImageSpec, Pool, RbdLayer, direct
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.disks.rbd import RbdBackend

_log = log.logger(__name__)

_SNAPSHOT = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class RbdDisk(RbdReplacing, Snapshotting, Importing, Clonable, DirectUpload):
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

    # --- it comes into being --------------------------------------------------------------------

    def create(
        self, size: int = 0, base: Base | None = None, *, encrypt: bool = False, progress: Progress = SILENT
    ) -> None:
        size = self._wanted(size, base)
        if encrypt:
            return self._seal(size, base, self._content(base, progress) if base else None, progress)
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
        with filesystem.errors_of(path, "take over"):
            there = path.stat().st_size
        size = self._wanted(there, None)
        if encrypt:
            self._seal(size, None, DiskSource(DiskType.FILE, DiskFormat.RAW, path), SILENT)
        else:
            self._import(path, there, size, None, SILENT)
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

    def _content(self, base: Base, progress: Progress) -> DiskSource:
        """What an encrypted disk is filled from: nothing can stand on a base whose bytes are others."""
        self._refuse_existing()
        if parent := self._place.standing_on(base, progress):
            pool, image, _ = parent
            return self._place.source(str(pool.spec(image)))
        with filesystem.errors_of(base.path, "read"):
            os.close(filesystem.open_regular(base.path))
        return DiskSource(DiskType.FILE, DiskFormat.RAW, base.path)

    def _seal(self, size: int, base: Base | None, content: DiskSource | None, progress: Progress) -> None:
        """A container with ``content``, complete before the image gets its name; its key is there before it."""
        keys = require_source(self._place.keys, self.backend)
        self._refuse_existing()
        encryption = new_encryption(EncryptionFormat.LUKS, luks_header.parameters(self._place.iterations))
        described = self._described(size, base, encryption)
        pool, part = self._place.pool, new_part(self.instance)
        made = filesystem.make_directory_unsynced(self.directory)
        try:
            with (
                manifest.announcing(self.directory, described, taken=self._is_there),
                new_key(keys, encryption) as sealed,
                filling(pool, self.instance, f"disk {self.label}", progress),
                Undo() as undo,
            ):
                undo.push("remove an unfinished disk", pool.remove, part)
                rbd_sealed.create(pool, part, size, sealed)
                if content:
                    target = self._place.source(str(pool.spec(part)))
                    rbd_sealed.fill(content, target, size, sealed, self._key, progress)
                self._make(size, base, lambda pool, image: pool.rename(part, image), encryption)
                undo.drop()
        except BaseException:
            if made:
                with suppress(OSError):
                    self.directory.rmdir()
            raise

    def _key(self, key_id: str) -> bytes:
        """Of the disk, or of the cluster. :raises NotFound: it is gone"""
        if key_id == self._place.secret_uuid:
            return base64.b64decode(self._place.cluster.key())
        return key_of(self._place.keys, key_id)

    def _make(
        self,
        size: int,
        base: Base | None,
        make: Callable[[Pool, str], object],
        encryption: Encryption | None = None,
    ) -> None:
        """The line of the manifest is durable, then ``make`` gives the image its name in one step."""
        unsynced = filesystem.make_directory_unsynced(self.directory)
        entry = self._described(size, base, encryption)
        spec = ImageSpec.parse(entry.location)
        pool = self._place.pool_of(spec)
        try:
            with manifest.recording(
                self.directory,
                entry,
                taken=lambda: pool.exists(spec.image),
                may_be_there=partial(_may_be_there, pool, spec.image),
            ):
                for place in (self.directory, *unsynced):
                    filesystem.sync_directory(place)
                _answered(pool, spec.image, make)
        except BaseException:
            if unsynced:
                with suppress(OSError):
                    self.directory.rmdir()
            raise

    # --- its life -------------------------------------------------------------------------------

    def activate(self) -> None:
        """A crash between cloning and growing leaves it smaller than the manifest says."""
        entry = self._entry()
        if entry.encryption:
            self._key(entry.encryption.key_id)
        self._grow(entry, entry.virtual_size)

    def _grow(self, entry: ManifestDisk, size: int) -> None:
        """What libvirt has grown for a running guest is only recorded."""
        pool, image = self._where()
        whole = self._before(entry) + size
        if pool.size(image) < whole:
            pool.resize(image, whole)

    def _before(self, entry: ManifestDisk) -> int:
        """Bytes of the image in front of what the guest sees."""
        return rbd_sealed.offset(*self._where()) if entry.encryption else 0

    def _allocated(self, entry: ManifestDisk) -> int:
        pool, image = self._where()
        return pool.allocated(image)

    def delete(self) -> None:
        """What the manifest does not name is not ours, whatever it is called."""
        if not (self.directory / manifest.FILE).exists():
            return
        self._delete_aside()
        with manifest.editing(self.directory) as disks:
            entry = disks.get(self.name)
            if entry is None or entry.backend != self.backend:
                return
            spec = ImageSpec.parse(entry.location)
            self._place.pool_of(spec).remove(spec.image)
            if entry.encryption and self._place.keys:
                # Killed before the line goes, we are called again; the other way round the key would stay for ever.
                self._place.keys.delete(entry.encryption.key_id)
            del disks[self.name]

    def source(self) -> DiskSource:
        entry = self._entry()
        return replace(self._place.source(entry.location), encryption=entry.encryption)

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
        pool, image = self._where()
        if entry.encryption:
            check_extract(format, compress=compress, plaintext=plaintext)
            self._key(entry.encryption.key_id)
            if plaintext or format != DiskFormat.RAW:
                size = entry.virtual_size
                words = {"compress": compress, "plaintext": plaintext}
                return extract(self.source(), size, target, format, self._key, progress=progress, **words)
        transfer.check_export(format, compress=compress)
        with pool.open(image, read_only=True, action="read") as opened:
            seconds = pool.cluster.access.operation_timeout
            size = self._before(entry) + entry.virtual_size
            layer = RbdLayer(opened, entry.location, size=size, seconds=seconds)
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
        entry = self._entry()
        pool, image = self._where()
        before = self._before(entry)
        parents = {snapshot.name: snapshot.parent for snapshot in entry.snapshots}
        return [
            DiskSnapshot(found.name, found.created, found.size - before, parents.get(found.name))
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
            entry = self._entry()
            size = pool.size(image) - self._before(entry)
            disks[self.name] = replace(entry, virtual_size=size, snapshot=name)

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

    def upload(
        self,
        image_id: str,
        *,
        near: Sequence[Location] = (),
        still: AbstractContextManager[object] | None = None,
        progress: Progress = SILENT,
    ) -> Location:
        if not _IMAGE.fullmatch(image_id):
            raise InvalidRequest(reason=f"{image_id!r} cannot be the id of an image")
        if self._entry().encryption:
            raise UnsupportedOperation(
                subject=f"disk {self.label}", operation="become an image in place", reason="it is encrypted"
            )
        pool, image = self._where()
        target = self._image_pool(pool, image, near)
        return Location(str(direct.upload(pool, image, target, image_id, still=still, progress=progress)))

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


def _answered(pool: Pool, image: str, make: Callable[[Pool, str], object]) -> None:
    """``make``, which gives the image its name; an answer that is late does not say that it has not."""
    try:
        make(pool, image)
    except DeadlineExceeded as error:
        if not pool.exists(image):
            raise
        _log.info("%s is there all the same: %s", pool.spec(image), error)


def _may_be_there(pool: Pool, image: str, error: BaseException) -> bool:
    """A late answer: it may come yet. An interruption is heard after whatever the cluster was doing."""
    if isinstance(error, Exception):
        return isinstance(error, DeadlineExceeded)
    try:
        return pool.exists(image)
    except CowshedError:
        return True


def _clone(parent: Pool, image: str, snapshot: str, pool: Pool, name: str, there: int, size: int) -> None:
    """``name`` in ``pool`` on the snapshot, which has ``there`` bytes, grown to ``size``."""
    pool.clone(parent, image, snapshot, name)
    if size > there:
        with Undo() as undo:
            undo.push("remove the clone", pool.remove, name)
            pool.grow_new(name, size)
