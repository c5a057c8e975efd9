"""rbd: images in a Ceph pool that all hosts see; from a base or an image of the cluster: a clone."""

from __future__ import annotations

import base64
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from cowshed.config import DisksSection, RbdSection
from cowshed.contract.storage import Backend, Cloning, KeySource, Traits
from cowshed.disks.rbd_bases import PART, RbdBases, filling, owner_of
from cowshed.disks.rbd_disk import RbdDisk
from cowshed.disks.recorded import recorded
from cowshed.errors import Busy, InvalidRequest, NotFound, PermissionDenied
from cowshed.model.disk import Capacity, DiskFormat, DiskSource, DiskType
from cowshed.model.image import Location
from cowshed.tools.rbd import Access, Cluster, Pool, Url, cluster, parse_url

__all__ = ["RbdBackend", "RbdDisk"]

_SECRETS: Final = uuid.UUID("0d4b6a52-7d0f-4f38-9d53-6d2f52ab7f0e")


class RbdBackend(RbdBases, Cloning, Backend):
    """A pool of a Ceph cluster. Disks that were made in another pool stay there."""

    name = "rbd"

    def __init__(
        self,
        instances: Path,
        section: RbdSection,
        keys: KeySource | None = None,
        *,
        iterations: int = DisksSection().luks_iterations,
    ) -> None:
        self.instances = instances
        self.section = section
        self.keys = keys
        self.iterations = iterations

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

    def source(self, location: str) -> DiskSource:
        """How QEMU reaches an image of the cluster."""
        found = self.cluster
        cephx = bool(self.section.secret_uuid) or found.uses_cephx()
        return DiskSource(
            DiskType.NETWORK,
            DiskFormat.RAW,
            protocol="rbd",
            name=location,
            hosts=found.monitors(),
            auth_user=found.user if cephx else "",
            secret_uuid=self.secret_uuid if cephx else "",
        )

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
            encrypts=self.keys is not None,
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
            with suppress(Busy), filling(self.pool, owner_of(part), "what is unfinished", timeout=0):
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
