"""The driver: one class that fulfils the ComputeDriver contract on libvirt and QEMU.

``LibvirtDriver`` joins one class per capability, each in the file of its name. What several
recipes share is in ``steps/``; capabilities never call each other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import ClassVar

from cowshed.config import Config
from cowshed.contract.callbacks import NoNetworkWaiter, Placement, Progress
from cowshed.contract.compute import ComputeDriver
from cowshed.driver.aggregates import Aggregates
from cowshed.driver.consoles import Consoles
from cowshed.driver.disk_export import DiskExport
from cowshed.driver.disk_listing import DiskListing
from cowshed.driver.disk_move import DiskMove
from cowshed.driver.disk_resize import DiskResize
from cowshed.driver.disk_snapshots import DiskSnapshots
from cowshed.driver.disks import Disks
from cowshed.driver.events import Events
from cowshed.driver.filters import Filters
from cowshed.driver.flags import Flags
from cowshed.driver.guest import Guest
from cowshed.driver.host import Host
from cowshed.driver.image_cache import ImageCache
from cowshed.driver.images import Images
from cowshed.driver.interfaces import Interfaces
from cowshed.driver.lifecycle import Lifecycle
from cowshed.driver.limits import Limits
from cowshed.driver.listing import Listing
from cowshed.driver.live_migration import LiveMigration
from cowshed.driver.maintenance import Maintenance
from cowshed.driver.power import Power
from cowshed.driver.rescue import Rescue
from cowshed.driver.resize import Resize
from cowshed.driver.resources import Resources
from cowshed.driver.rooms import Rooms
from cowshed.driver.shared_storage import SharedStorage
from cowshed.driver.shares import Shares
from cowshed.driver.snapshot import Snapshot
from cowshed.driver.startup import Startup
from cowshed.driver.statistics import Statistics
from cowshed.driver.volumes import Volumes

__all__ = ["LibvirtDriver"]


class LibvirtDriver(
    Startup,
    Lifecycle,
    Limits,
    Listing,
    Power,
    Consoles,
    Events,
    Disks,
    DiskListing,
    DiskResize,
    DiskMove,
    DiskSnapshots,
    DiskExport,
    Images,
    ImageCache,
    Guest,
    Host,
    Flags,
    Maintenance,
    Resources,
    Snapshot,
    Statistics,
    Aggregates,
    Volumes,
    Shares,
    Interfaces,
    Filters,
    Rescue,
    SharedStorage,
    LiveMigration,
    Resize,
    ComputeDriver,
):
    """Runs instances on this host.

    Making one is cheap: libvirt is loaded and reached by the first call that needs it. An
    instance may be used by one call at a time; different instances by any number of threads.

    :param virtapi: what the driver calls back when somebody else plugs networks; None: nobody
    :param config: the configuration; None: the files and environment of this host
    :param placement: says where running guests go when this host is drained; None: they cannot
    """

    capabilities: ClassVar[dict[str, bool]] = {
        "has_imagecache": True,
        "supports_recreate": True,
        "supports_migrate_to_same_host": True,
    }

    def __init__(
        self,
        virtapi: object = None,
        *,
        config: Config | None = None,
        rooms: Rooms | None = None,
        placement: Placement | None = None,
    ) -> None:
        super().__init__(virtapi or NoNetworkWaiter())
        self.placement = placement
        self.rooms = rooms or Rooms(config)
        self.rooms.waiter = self.virtapi

    @contextmanager
    def reporting(self, progress: Progress) -> Iterator[None]:
        """Long work in the block, on this thread, reports to ``progress``."""
        before, self.rooms.progress = self.rooms.progress, progress
        try:
            yield
        finally:
            self.rooms.progress = before
