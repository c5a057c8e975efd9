"""Images of one pool (and namespace): made, found, renamed, cloned, removed."""

from __future__ import annotations

import errno
import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any, Final

from cowshed import clock
from cowshed.errors import Busy, DiskNotFound, NameTaken, NoSpace, NotFound, SnapshotNotFound
from cowshed.model.disk import Capacity
from cowshed.tools.rbd import errors, header, parents, statistics
from cowshed.tools.rbd.cluster import Cluster
from cowshed.tools.rbd.url import ImageSpec

_FACTS: Final = "cowshed"  # the key of our own facts in an image's metadata
_TRASH: Final = "cowshed-trash_"
WATCHED: Final = 35.0  # seconds: a watcher of a client that died is forgotten after 30


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``size`` in bytes; ``created`` in seconds since the epoch."""

    id: int
    name: str
    size: int
    created: float


class Pool:
    """A pool, or a namespace in one. No I/O until something is asked."""

    def __init__(self, cluster: Cluster, name: str, namespace: str = "") -> None:
        self.cluster = cluster
        self.name = name
        self.namespace = namespace

    def spec(self, image: str) -> ImageSpec:
        return ImageSpec(self.name, image, self.namespace)

    @contextmanager
    def ioctx(self) -> Iterator[Any]:
        with self.cluster.ioctx(self.name, self.namespace) as ioctx:
            yield ioctx

    @contextmanager
    def _doing(self, action: str, image: str, *, kind: str = "image") -> Iterator[tuple[Any, Any]]:
        """(I/O context, librbd), with errors in our words."""
        _, rbd = errors.bindings()
        with self.ioctx() as ioctx, self.cluster.errors_of(action, str(self.spec(image)), kind=kind):
            yield ioctx, rbd

    @contextmanager
    def open(
        self, image: str, snapshot: str | None = None, *, read_only: bool = False, action: str = "open"
    ) -> Iterator[Any]:
        """The image of the bindings. Errors of the block, which does ``action``, become ours too.

        :raises DiskNotFound: :raises SnapshotNotFound: :raises NotFound: its parent's pool is gone
        """
        with self._doing(action, image) as (ioctx, rbd):
            self._check_parents(ioctx, image)
            try:
                opened = rbd.Image(ioctx, image, snapshot=snapshot, read_only=read_only)
            except rbd.ImageNotFound:
                if snapshot and self.exists(image):
                    raise SnapshotNotFound(name=f"{self.spec(image)}@{snapshot}") from None
                raise
            try:
                yield opened
            finally:
                opened.close()

    def _lost(self, ioctx: Any, image: str) -> bool:
        """Would librbd wait for good? See :mod:`cowshed.tools.rbd.parents`, and :meth:`Cluster.wait_for`."""
        return self.cluster.threads == 1 and parents.lost(self.cluster, ioctx, image)

    def _check_parents(self, ioctx: Any, image: str) -> None:
        if self._lost(ioctx, image):
            raise NotFound(
                kind="pool with a parent of", name=str(self.spec(image)), hint="what it stood on is lost; remove it"
            )

    # --- what is there ------------------------------------------------------------------------

    def exists(self, image: str) -> bool:
        """One question to one OSD; the image is not opened."""
        rados, _ = errors.bindings()
        with self._doing("look for", image) as (ioctx, _):
            try:
                ioctx.stat(f"rbd_id.{image}")
            except rados.ObjectNotFound:
                return False
            return True

    def images(self, prefix: str = "") -> Sequence[str]:
        """Names that begin with ``prefix``, in order; asked by prefix, without opening any."""
        with self._doing("list", f"{prefix}*") as (ioctx, _):
            return statistics.names(ioctx, prefix)

    def capacity(self) -> Capacity:
        """What this pool may hold in all, with its quota. :raises NotFound: there is no such pool, or namespace in it"""
        if self.namespace:
            with self.ioctx() as ioctx:
                self._check_namespace(ioctx)
        answer = statistics.counted(self.cluster)
        if found := statistics.capacity(answer, self.name):
            return found
        with self.ioctx():  # there is such a pool, so new that nobody has counted what is in it
            return statistics.unused(answer)

    def check_space(self, needed: int) -> None:
        """:raises NoSpace: so many bytes do not fit, as far as the cluster knows"""
        free = self.capacity().free
        if free < needed:
            raise NoSpace(place=f"the Ceph pool {self.name}", needed=needed, free=free)

    # --- images come and go -------------------------------------------------------------------

    def _prepare(self, ioctx: Any) -> None:
        """librbd removes by way of the trash, whose index a full pool would refuse to make: make it now."""
        rados, _ = errors.bindings()
        key = (self.name, self.namespace)
        if key not in self.cluster.prepared:
            self._check_namespace(ioctx)
            with rados.WriteOpCtx() as operation:
                operation.new(rados.LIBRADOS_CREATE_IDEMPOTENT)
                ioctx.operate_write_op(operation, "rbd_trash")
            self.cluster.prepared.add(key)

    def _check_namespace(self, ioctx: Any) -> None:
        """librbd says of a missing namespace only that the image is not found. :raises NotFound:"""
        _, rbd = errors.bindings()
        try:
            missing = bool(self.namespace) and not rbd.RBD().namespace_exists(ioctx, self.namespace)
        except (rbd.PermissionError, rbd.OperationNotSupported):  # a user of this namespace need not see the list
            return
        if missing:
            name = f"{self.name}/{self.namespace}"
            raise NotFound(kind="namespace", name=name, hint=f"rbd namespace create {name}, or see [rbd] namespace")

    def create(self, image: str, size: int) -> None:
        """A blank one. :raises NameTaken:"""
        with self._doing("create", image) as (ioctx, rbd):
            self._prepare(ioctx)
            rbd.RBD().create(ioctx, image, size, old_format=False)

    def clone(self, parent: Pool, image: str, snapshot: str, name: str) -> None:
        """``name`` here, on a snapshot of an image in ``parent``; no data is moved.

        With the old format of clones, which ceph.conf may ask for, the snapshot is protected first.

        :raises NameTaken: :raises DiskNotFound: the parent or its snapshot is not there
        """
        _, rbd = errors.bindings()
        with parent.ioctx() as source, self._doing("clone", name) as (ioctx, _):
            parent._check_parents(source, image)
            self._prepare(ioctx)
            if self.cluster.clones_protected():
                parent.protect(image, snapshot)
            try:
                rbd.RBD().clone(source, image, snapshot, ioctx, name)
            except rbd.ImageNotFound:
                raise DiskNotFound(name=f"{parent.spec(image)}@{snapshot}") from None

    def rename(self, image: str, name: str) -> None:
        """:raises NameTaken: :raises DiskNotFound:"""
        with self._doing("rename", image) as (ioctx, rbd):
            self._check_parents(ioctx, image)
            try:
                rbd.RBD().rename(ioctx, image, name)
            except rbd.ImageExists:
                raise NameTaken(kind="image", name=str(self.spec(name))) from None

    def remove(self, image: str, *, patience: float = WATCHED) -> None:
        """With its snapshots; already gone is success. What clones still stand on goes to the trash.

        :param patience: seconds for a client that died to be forgotten
        :raises Busy: somebody has it open
        """
        waiting = clock.Deadline(patience, "removing an image")
        while True:
            try:
                return self._remove(image)
            except DiskNotFound:
                if not self.exists(image):
                    return
                raise NoSpace(  # what librbd makes of a refusal in the middle
                    place=f"the Ceph pool {self.name} to remove {image}", needed="a little", free="nothing"
                ) from None
            except Busy:
                if waiting.passed:
                    raise
                clock.current().sleep(min(1.0, waiting.remaining() or 0.0))

    def _remove(self, image: str) -> None:
        with self._doing("remove", image) as (ioctx, rbd):
            if self._lost(ioctx, image):
                what = f"remove {self.spec(image)}"
                return self.cluster.wait_for(what, lambda other: Pool(other, self.name, self.namespace)._remove(image))
            try:
                return rbd.RBD().remove(ioctx, image)
            except rbd.ImageHasSnapshots:  # librbd says so before it looks for who has it open
                if self.in_use(image):
                    raise rbd.ImageBusy("it is open", errno=errno.EBUSY) from None
            self._remove_snapshots(image)
            try:
                rbd.RBD().remove(ioctx, image)
            except rbd.ImageHasSnapshots:  # those that clones stand on, which the cluster keeps for them
                hidden = f"{_TRASH}{uuid.uuid4()}"
                rbd.RBD().rename(ioctx, image, hidden)
                rbd.RBD().trash_move(ioctx, hidden, 0)

    def _remove_snapshots(self, image: str) -> None:
        for snapshot in reversed(self.snapshots(image)):
            with suppress(SnapshotNotFound):
                self.remove_snapshot(image, snapshot.name, force=True)

    def purge(self) -> None:
        """What :meth:`remove` has put into the trash and has no clones any more."""
        for image in self.images(_TRASH):  # killed on the way there
            self.remove(image)
        with self._doing("list", "the trash") as (ioctx, rbd):
            for entry in list(rbd.RBD().trash_list(ioctx)):
                if entry["name"].startswith(_TRASH) and not parents.lost_by_id(self.cluster, ioctx, entry["id"]):
                    with suppress(rbd.Error):  # clones stand on it still
                        rbd.RBD().trash_remove(ioctx, entry["id"])

    # --- one image ----------------------------------------------------------------------------

    def size(self, image: str, snapshot: str | None = None) -> int:
        with self.open(image, snapshot, read_only=True) as opened:
            return int(opened.size())

    def resize(self, image: str, size: int) -> None:
        """Also while a guest has it open."""
        with self.open(image, action="resize") as opened:
            opened.resize(size)

    def grow_new(self, image: str, size: int) -> None:
        """As :meth:`resize`, in a third of the time, for an image that was made just now and nobody has opened."""
        with self._doing("resize", image) as (ioctx, _):
            grown = header.grow(ioctx, image, size)
        if not grown:
            self.resize(image, size)

    def allocated(self, image: str) -> int:
        """Bytes of objects it has of its own, from the map of objects where the image keeps one."""
        with self.open(image, read_only=True) as opened:
            return statistics.allocated(opened)

    def facts(self, image: str, snapshot: str | None = None) -> Mapping[str, Any]:
        """What :meth:`note` wrote; empty when it is not ours."""
        with self.open(image, snapshot, read_only=True) as opened:
            try:
                facts = json.loads(opened.metadata_get(_FACTS))
            except KeyError:
                return {}
            return facts if isinstance(facts, dict) else {}

    def note(self, image: str, **facts: object) -> None:
        """Write our facts beside the image."""
        with self.open(image) as opened:
            opened.metadata_set(_FACTS, json.dumps(facts))

    def parent(self, image: str) -> tuple[ImageSpec, str] | None:
        """(image, snapshot) it stands on."""
        _, rbd = errors.bindings()
        with self.open(image, read_only=True) as opened:
            try:
                found = opened.get_parent_image_spec()
            except rbd.ImageNotFound:
                return None
            spec = ImageSpec(found["pool_name"], found["image_name"], found["pool_namespace"])
            return spec, str(found["snap_name"])

    def flatten(self, image: str) -> None:
        """Copy what it reads from its parent, inside the cluster; without a parent that is done."""
        _, rbd = errors.bindings()
        with self.open(image, action="flatten") as opened:
            try:
                opened.get_parent_image_spec()
            except rbd.ImageNotFound:
                return
            opened.flatten()

    def flatten_later(self, image: str) -> None:
        """Let the cluster's manager do it. :raises DeadlineExceeded: :raises PermissionDenied: it cannot be asked"""
        try:
            self.cluster.ask_manager("rbd task add flatten", image_spec=str(self.spec(image)))
        except NotFound:
            if self.parent(image):
                raise  # otherwise it has been done meanwhile

    def in_use(self, image: str) -> bool:
        """Has another client (a guest) opened it for writing?"""
        with self.open(image, read_only=True) as opened:
            return bool(list(opened.watchers_list()))

    # --- snapshots ----------------------------------------------------------------------------

    def snapshots(self, image: str) -> Sequence[Snapshot]:
        """Those of users, oldest first."""
        from calendar import timegm

        with self.open(image, read_only=True) as opened:
            found = [entry for entry in opened.list_snaps() if entry.get("namespace", 0) == 0]
            return tuple(
                Snapshot(
                    entry["id"],
                    entry["name"],
                    entry["size"],
                    float(timegm(opened.get_snap_timestamp(entry["id"]).timetuple())),
                )
                for entry in sorted(found, key=lambda entry: int(entry["id"]))
            )

    def take(self, image: str, snapshot: str) -> None:
        """:raises NameTaken:"""
        with self.open(image) as opened, self._snapshot("take", image, snapshot):
            opened.create_snap(snapshot)

    def protect(self, image: str, snapshot: str) -> None:
        """It cannot be removed by mistake; protected already is success."""
        with self.open(image) as opened, self._snapshot("protect", image, snapshot):
            if not opened.is_protected_snap(snapshot):
                opened.protect_snap(snapshot)

    def roll_back(self, image: str, snapshot: str) -> None:
        """Content and size of ``snapshot`` again, object by object."""
        with self.open(image) as opened, self._snapshot("roll back to", image, snapshot):
            opened.rollback_to_snap(snapshot)

    def children(self, image: str, snapshot: str) -> Sequence[ImageSpec]:
        """Clones that stand on it, those in the trash too."""
        with self.open(image, snapshot, read_only=True) as opened:
            return tuple(
                ImageSpec(child["pool"], child["image"], child["pool_namespace"]) for child in opened.list_children2()
            )

    def remove_snapshot(self, image: str, snapshot: str, *, force: bool = False) -> None:
        """Protected or not.

        :param force: also when clones stand on it, where their format allows that: they keep it alive
        :raises SnapshotNotFound: :raises Busy: clones stand on it
        """
        if not force and (children := self.children(image, snapshot)):
            raise Busy(what=f"snapshot {snapshot} of {self.spec(image)}", holder=f"its clone {children[0]}")
        with self.open(image, read_only=True) as opened, self._snapshot("remove", image, snapshot):
            protected = opened.is_protected_snap(snapshot)
        if protected:
            self._unprotect(image, snapshot)
        with self.open(image) as opened, self._snapshot("remove", image, snapshot):
            opened.remove_snap(snapshot)

    def _unprotect(self, image: str, snapshot: str) -> None:
        def work(cluster: Cluster) -> None:
            there = Pool(cluster, self.name, self.namespace)
            with there.open(image) as opened, there._snapshot("unprotect", image, snapshot):
                opened.unprotect_snap(snapshot)

        self.cluster.wait_for(f"unprotect {snapshot} of {self.spec(image)}", work)

    @contextmanager
    def _snapshot(self, action: str, image: str, snapshot: str) -> Iterator[None]:
        with self.cluster.errors_of(action, f"{snapshot} of {self.spec(image)}", kind="snapshot"):
            yield
