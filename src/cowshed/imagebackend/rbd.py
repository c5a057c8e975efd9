"""Rbd: an image in a Ceph pool."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

from cowshed import log
from cowshed.contract.storage import Clonable, Cloning, DirectUpload
from cowshed.disks.recorded import RecordedDisk
from cowshed.errors import (
    CowshedError,
    ImageNotFound,
    ImageRejected,
    InvalidRequest,
    NameTaken,
    NotFound,
    UnsupportedOperation,
)
from cowshed.imagebackend.image import uuid_of
from cowshed.imagebackend.models import ImageModel, RBDImage
from cowshed.imagebackend.rbd_driver import RBDDriver
from cowshed.imagebackend.stored import Stored
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image as Record
from cowshed.model.image import Location

_log = log.logger(__name__)
_UUID = 36  # characters


class Rbd(Stored):
    """``rbd:<pool>[/<namespace>]/<uuid>_<disk_name>[:id=<user>][:conf=<file>]``."""

    SUPPORTS_CLONE: ClassVar[bool] = True
    backend_name = "rbd"
    source_kind = "network"

    @property
    def pool(self) -> str:
        return self._location().rpartition("/")[0]

    @property
    def rbd_name(self) -> str:
        return self._location().rpartition("/")[2]

    @property
    def rbd_user(self) -> str:
        return self._settings.config.rbd.user

    @property
    def ceph_conf(self) -> str:
        return self._settings.config.rbd.ceph_conf

    @cached_property
    def driver(self) -> RBDDriver:
        return RBDDriver(self.pool, section=self._settings.config.rbd)

    def _location(self) -> str:
        disk = self._disk()
        assert isinstance(disk, RecordedDisk)
        return disk.location()

    def _path(self) -> str:
        options = [("id", self.rbd_user), ("conf", self.ceph_conf)]
        return ":".join(["rbd", self._location(), *(f"{name}={_escaped(value)}" for name, value in options if value)])

    def _parse(self, path: str) -> tuple[str, str]:
        name = path.removeprefix("rbd:").partition(":")[0]
        image = name.rpartition("/")[2]
        if not path.startswith("rbd:") or "/" not in name or image[_UUID : _UUID + 1] != "_":
            raise InvalidRequest(reason=f"{path!r} is no RBD image of an instance")
        instance, disk = image[:_UUID], image[_UUID + 1 :]
        there = self._place().disk(instance, disk)
        assert isinstance(there, RecordedDisk)
        if there.location() != name:
            raise InvalidRequest(reason=f"{path!r} is not where the disk {disk} of instance {instance} is")
        return instance, disk

    def get_disk_size(self, name: str) -> int:
        """Of this disk, when it is there, whatever ``name`` says."""
        return self._entry().virtual_size if self.exists() else super().get_disk_size(name)

    @staticmethod
    def is_shared_block_storage() -> bool:
        return True

    def get_model(self, connection: Any) -> ImageModel:
        hosts, ports = self.driver.get_mon_addrs(strip_brackets=False)
        password = None
        with suppress(NotFound):
            password = self.driver.cluster.key()
        servers = [f"{host}:{port}" for host, port in zip(hosts, ports, strict=True)]
        return RBDImage(self.rbd_name, self.pool, self.rbd_user or None, password, servers)

    # --- clones ---------------------------------------------------------------------------------

    def clone(self, context: Any, image_id_or_uri: str, copy_to_store: bool = True) -> None:
        """Make the disk on an image of the same cluster: its id in the image service, or its location.

        :param copy_to_store: let the image service copy the image into the store ``[glance] store`` first,
            where it is in no place that can be cloned
        :raises ImageRejected: it cannot be cloned from; nothing was made
        """
        image, locations = self._found(image_id_or_uri)
        place, disk = self._place(), self._known_role(Clonable)
        assert isinstance(place, Cloning)
        kind = image.disk_format if image else DiskFormat.RAW
        if kind not in (DiskFormat.RAW, DiskFormat.ISO):
            raise ImageRejected(image=image_id_or_uri, reason=f"it is {kind}, and only raw content can be cloned")
        for location in locations:
            if place.cloneable(location, kind):
                disk.clone(location)
                return
        if image and copy_to_store and self._settings.config.glance.store:
            self.copy_to_store(context, image)
            return self.clone(context, image_id_or_uri, copy_to_store=False)
        raise ImageRejected(image=image_id_or_uri, reason="it lies in no place of this Ceph cluster")

    def copy_to_store(self, context: Any, image_meta: Any) -> None:
        """:raises ImageRejected: the image service would not, or could not in time"""
        image = image_meta if isinstance(image_meta, Record) else self._settings.images.show(_id_of(image_meta))
        store = self._settings.config.glance.store
        try:
            self._settings.images.copy_to_store(image, store)
        except CowshedError as error:
            raise ImageRejected(image=image.id, reason=f"it was not copied to store {store}: {error}") from error

    def _found(self, image: str) -> tuple[Record | None, Sequence[Location]]:
        if image.startswith("rbd://"):
            return None, [Location(image)]
        try:
            found = self._settings.images.show(image)
        except ImageNotFound as error:
            raise ImageRejected(image=image, reason=str(error)) from error
        return found, self._settings.images.locations(found)

    def _known_role(self, role: Any) -> Any:
        disk = self._disk()
        if not isinstance(disk, role):
            self._cannot("do that", f"its disks are not {role.__name__}")
        return disk

    def flatten(self) -> None:
        """Detach from the parent; without one there is nothing to do."""
        self._known_disk()
        self._known_role(Clonable).flatten()

    # --- images made of it ----------------------------------------------------------------------

    def direct_snapshot(
        self, context: Any, snapshot_name: str, image_format: str, image_id: str, base_image_id: str
    ) -> str:
        """A new image of the present content inside the cluster; returns the URL to register for ``image_id``.

        The snapshot it takes on the way is its own and gone again; ``snapshot_name`` is only logged.

        :raises ImageRejected: no pool of the image service can be told
        :raises PermissionDenied: the user may not write there; nothing is left
        """
        self._known_disk()
        near: Sequence[Location] = ()
        if base_image_id:
            with suppress(NotFound):
                near = self._settings.images.locations(self._settings.images.show(base_image_id))
        try:
            location = self._known_role(DirectUpload).upload(image_id, near=near)
        except UnsupportedOperation as error:
            raise ImageRejected(image=image_id, reason=str(error)) from error
        _log.info("%s (%s) is image %s now", self.path, snapshot_name, image_id)
        return str(location.url)

    def cleanup_direct_snapshot(
        self, location: Mapping[str, Any] | None, also_destroy_volume: bool = False, ignore_errors: bool = False
    ) -> None:
        """Take a :meth:`direct_snapshot` back: its protected snapshot, and the image as well if it is asked for."""
        if not location:
            return
        _, pool, image, snapshot = self.driver.parse_url(location["url"])
        if also_destroy_volume:
            self._known_role(DirectUpload).discard(Location(location["url"]))
        elif self.driver.exists(image, pool=pool):
            self.driver.remove_snap(image, snapshot, ignore_errors=ignore_errors, pool=pool, force=True)

    def import_file(self, instance: Any, local_file: str, remote_name: str) -> None:
        """The raw file ``local_file`` becomes the disk ``remote_name``, in place of an older one; the file stays.

        The older one is removed when the new one has its name; an error leaves it.

        :raises Busy: a guest has the older one open
        """
        from cowshed.disks.rbd_replacing import RbdReplacing

        disk = self._place().disk(uuid_of(instance), remote_name)
        assert isinstance(disk, RbdReplacing)
        try:
            disk.replace_with(Path(local_file))
        except NameTaken as error:
            raise InvalidRequest(reason=str(error)) from error


def _escaped(value: str) -> str:
    """QEMU's spelling inside ``rbd:``."""
    return "".join(f"\\{letter}" if letter in ":@=\\" else letter for letter in value)


def _id_of(meta: Any) -> str:
    return str(meta["id"] if isinstance(meta, Mapping) else meta.id)
