"""RBDDriver and its context managers: the classic helper for a pool, on cowshed's own connection.

Every object of one user and configuration shares one connection, which is made at the first use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from cowshed import log
from cowshed.config import RbdSection
from cowshed.errors import (
    Busy,
    CowshedError,
    ImageRejected,
    InvalidRequest,
    NotFound,
    SnapshotNotFound,
)
from cowshed.imagebackend.settings import current
from cowshed.model.disk import DiskFormat

_log = log.logger(__name__)
RESIZE_SNAPSHOT: Final = "nova-resize"  # what the classic resize flow takes
_LAYERING: Final = 1  # rbd_default_features unset
_WATCHED: Final = 60.0  # seconds that a crashed client's watch may keep an image (12 times 5 in the classic one)


class RBDDriver:
    """One pool of a Ceph cluster; what is not given is as configured in ``[rbd]``.

    The keyring of ``[rbd]`` is taken for its user and cluster only.

    :param pool: ``pool`` or ``pool/namespace``
    :param connect_timeout: seconds
    :param section: instead of the configured one
    """

    def __init__(
        self,
        pool: str | None = None,
        user: str | None = None,
        ceph_conf: str | None = None,
        connect_timeout: float | None = None,
        *,
        section: RbdSection | None = None,
    ) -> None:
        from cowshed.tools import rbd

        section = section or current().config.rbd
        self.pool = section.pool if pool is None else pool
        self.rbd_user = section.user if user is None else user
        self.ceph_conf = section.ceph_conf if ceph_conf is None else ceph_conf
        self.connect_timeout = section.connect_timeout if connect_timeout is None else connect_timeout
        same = (self.rbd_user, self.ceph_conf) == (section.user, section.ceph_conf)
        access = rbd.Access(
            self.rbd_user,
            self.ceph_conf,
            section.keyring if same else "",
            float(self.connect_timeout),
            section.operation_timeout,
        )
        self.cluster = rbd.cluster(access)

    def _pool(self, pool: str | None = None) -> Any:
        from cowshed.tools.rbd import Pool

        name, _, namespace = (pool or self.pool).partition("/")
        return Pool(self.cluster, name, namespace)

    # --- the cluster ----------------------------------------------------------------------------

    def ceph_args(self) -> list[str]:
        """For the ``ceph`` and ``rbd`` commands."""
        user = ["--id", self.rbd_user] if self.rbd_user else []
        return user + (["--conf", self.ceph_conf] if self.ceph_conf else [])

    def get_mon_addrs(self, strip_brackets: bool = True) -> tuple[list[str], list[str]]:
        """(hosts, ports) of the monitors."""
        hosts = self.cluster.monitors()
        names = [
            f"[{name}]" if ":" in name and not strip_brackets else name for name in (h.name.strip("[]") for h in hosts)
        ]
        return names, [str(host.port) for host in hosts]

    def get_fsid(self) -> str:
        return self.cluster.fsid

    def get_pool_info(self) -> dict[str, int]:
        """``total``, ``free``, ``used`` bytes. :raises NotFound: there is no such pool"""
        capacity = self._pool().capacity()
        return {"total": capacity.total, "free": capacity.free, "used": capacity.used}

    # --- locations ------------------------------------------------------------------------------

    def parse_url(self, url: str) -> list[str]:
        """[fsid, pool, image, snapshot]. :raises ImageRejected: it is something else"""
        from cowshed.tools.rbd import parse_url

        try:
            found = parse_url(url)
        except InvalidRequest as error:
            raise ImageRejected(image=url, reason=str(error)) from error
        pool = f"{found.spec.pool}/{found.spec.namespace}" if found.spec.namespace else found.spec.pool
        return [found.fsid, pool, found.spec.image, found.snapshot]

    def is_cloneable(self, image_location: Mapping[str, Any], image_meta: Any) -> bool:
        """Same cluster, raw, readable; raises nothing for a no."""
        disk_format = image_meta["disk_format"] if isinstance(image_meta, Mapping) else image_meta.disk_format
        try:
            fsid, pool, image, snapshot = self.parse_url(image_location["url"])
            if fsid != self.get_fsid() or disk_format != DiskFormat.RAW:
                return False
            return self.exists(image, pool=pool, snapshot=snapshot)
        except CowshedError as error:
            _log.debug("%s cannot be cloned: %s", image_location.get("url"), error)
            return False

    def clone(self, image_location: Mapping[str, Any], dest_name: str, dest_pool: str | None = None) -> None:
        """:raises PermissionDenied: :raises NameTaken:"""
        _, pool, image, snapshot = self.parse_url(image_location["url"])
        self._pool(dest_pool).clone(self._pool(pool), image, snapshot, dest_name)

    # --- images ---------------------------------------------------------------------------------

    def size(self, name: str) -> int:
        return int(self._pool().size(name))

    def resize(self, name: str, size: int) -> None:
        self._pool().resize(name, size)

    def exists(self, name: str, pool: str | None = None, snapshot: str | None = None) -> bool:
        try:
            with self._pool(pool).open(name, snapshot, read_only=True):
                return True
        except NotFound:
            return False

    def parent_info(self, volume: str, pool: str | None = None) -> tuple[str, str, str]:
        """(pool, image, snapshot). :raises ImageRejected: it has no parent"""
        parent = self._pool(pool).parent(volume)
        if parent is None:
            raise ImageRejected(image=volume, reason="it has no parent")
        spec, snapshot = parent
        return (f"{spec.pool}/{spec.namespace}" if spec.namespace else spec.pool), spec.image, snapshot

    def flatten(self, volume: str, pool: str | None = None) -> None:
        self._pool(pool).flatten(volume)

    def import_image(self, base: str, name: str) -> None:
        """The raw file ``base`` as the new image ``name``; an error leaves nothing. :raises NameTaken:"""
        from cowshed.contract.callbacks import SILENT
        from cowshed.tools import rbd
        from cowshed.tools.transfer.layers import RawLayer
        from cowshed.tools.transfer.pump import pump

        pool = self._pool()
        with Path(base).open("rb") as file, ExitStack() as undo:
            layer = RawLayer(file.fileno())
            pool.create(name, layer.size)
            undo.callback(pool.remove, name)
            with pool.open(name) as opened:
                sink = rbd.RbdSink(opened, layer.size, name, seconds=self.cluster.access.operation_timeout)
                try:
                    pump(layer, sink, progress=SILENT)
                    sink.finish()
                finally:
                    sink.close()
            undo.pop_all()

    def export_image(self, base: str, name: str, snap: str, pool: str | None = None) -> None:
        """``snap`` of the image to the new raw file ``base``."""
        from cowshed.tools import rbd, transfer

        where = self._pool(pool)
        with where.open(name, snap, read_only=True) as opened:
            layer = rbd.RbdLayer(opened, name, size=opened.size(), seconds=self.cluster.access.operation_timeout)
            transfer.export_layer(layer, Path(base), DiskFormat.RAW)

    def remove_image(self, name: str) -> None:
        """What cannot be removed is logged."""
        try:
            pool = self._pool()
            if not pool.exists(name):
                _log.warning("image %s is not in pool %s", name, self.pool)
            elif pool.snapshots(name):
                _log.error("image %s in pool %s has snapshots and is not removed", name, self.pool)
            else:
                pool.remove(name)
        except CowshedError as error:
            _log.error("image %s in pool %s cannot be removed: %s", name, self.pool, error)

    def destroy_volume(self, volume: str, pool: str | None = None) -> None:
        """With its resize snapshot, trying again while a crashed client's watch keeps it; gone is success."""
        where = self._pool(pool)
        if not where.exists(volume):
            return
        if RESIZE_SNAPSHOT in [snapshot.name for snapshot in where.snapshots(volume)]:
            self.remove_snap(volume, RESIZE_SNAPSHOT, ignore_errors=True, pool=pool, force=True)
        where.remove(volume, patience=_WATCHED)

    def cleanup_volumes(self, filter_fn: Callable[[str], bool]) -> None:
        """Destroy all images of the pool that the function says yes to."""
        for volume in self._pool().images():
            if filter_fn(volume):
                self.destroy_volume(volume)

    # --- snapshots ------------------------------------------------------------------------------

    def create_snap(self, volume: str, name: str, pool: str | None = None, protect: bool = False) -> None:
        where = self._pool(pool)
        where.take(volume, name)
        if protect:
            where.protect(volume, name)

    def remove_snap(
        self, volume: str, name: str, ignore_errors: bool = False, pool: str | None = None, force: bool = False
    ) -> None:
        """A missing one, and a protected one without ``force``, is worth a warning and nothing else."""
        where = self._pool(pool)
        warn = _log.debug if ignore_errors else _log.warning
        if name not in [snapshot.name for snapshot in where.snapshots(volume)]:
            return warn("snapshot %s of %s is not there", name, volume)
        with where.open(volume, read_only=True) as opened:
            protected = opened.is_protected_snap(name)
        if protected and not force:
            return warn("snapshot %s of %s is protected and stays", name, volume)
        try:
            where.remove_snapshot(volume, name, force=force)
        except Busy as error:
            if not ignore_errors:
                raise
            warn("%s", error)

    def rollback_to_snap(self, volume: str, name: str) -> None:
        """:raises SnapshotNotFound:"""
        where = self._pool()
        if name not in [snapshot.name for snapshot in where.snapshots(volume)]:
            raise SnapshotNotFound(name=f"{name} of {volume}")
        where.roll_back(volume, name)


class RADOSClient:
    """``with RADOSClient(driver) as client``: ``client.ioctx`` is the pool of the bindings."""

    def __init__(self, driver: RBDDriver, pool: str | None = None) -> None:
        self.driver = driver
        self._where = driver._pool(pool)
        self._stack = ExitStack()
        self.ioctx: Any = None

    @property
    def cluster(self) -> Any:
        return self.driver.cluster.rados()

    def __enter__(self) -> RADOSClient:
        self.ioctx = self._stack.enter_context(self._where.ioctx())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def features(self) -> int:
        """The cluster's default features of new images; layering where it says nothing."""
        return int(self.driver.cluster.rados().conf_get("rbd_default_features") or 0) or _LAYERING


class RBDVolumeProxy:
    """``with RBDVolumeProxy(driver, name) as volume``: an open image of the bindings."""

    def __init__(
        self,
        driver: RBDDriver,
        name: str,
        pool: str | None = None,
        snapshot: str | None = None,
        read_only: bool = False,
    ) -> None:
        self.driver = driver
        self._open = driver._pool(pool).open(name, snapshot, read_only=read_only)
        self.volume: Any = None

    def __enter__(self) -> RBDVolumeProxy:
        self.volume = self._open.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return bool(self._open.__exit__(kind, error, trace))

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["volume"], name)
