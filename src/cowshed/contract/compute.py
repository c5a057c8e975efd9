"""The ComputeDriver contract: every capability joined into one class.

The method names, their parameters and their meaning are those of OpenStack's compute driver contract in its
Mitaka shape (109 methods, one property, three capability flags). Callers pass parameters by name.
"""

from __future__ import annotations

from typing import Any, ClassVar

from cowshed.contract.aggregates import Aggregates
from cowshed.contract.block_device import (
    block_device_info_get_ephemerals,
    block_device_info_get_mapping,
    block_device_info_get_root,
    block_device_info_get_swap,
    get_block_device_info,
    swap_is_usable,
)
from cowshed.contract.callbacks import EventListener
from cowshed.contract.consoles import Consoles
from cowshed.contract.disks import Disks
from cowshed.contract.events import Events
from cowshed.contract.filters import Filters
from cowshed.contract.guest import Guest
from cowshed.contract.host import Host
from cowshed.contract.image_cache import ImageCache
from cowshed.contract.interfaces import Interfaces
from cowshed.contract.lifecycle import Lifecycle
from cowshed.contract.listing import Listing
from cowshed.contract.live_migration import LiveMigration
from cowshed.contract.loading import driver_dict_from_config, is_xenapi, load_compute_driver
from cowshed.contract.power import Power
from cowshed.contract.rescue import Rescue
from cowshed.contract.resize import Resize
from cowshed.contract.resources import Resources
from cowshed.contract.shared_storage import SharedStorage
from cowshed.contract.snapshot import Snapshot
from cowshed.contract.startup import Startup
from cowshed.contract.statistics import Statistics
from cowshed.contract.volumes import Volumes

CAPABILITIES: tuple[type, ...] = (
    Aggregates,
    Consoles,
    Disks,
    Events,
    Filters,
    Guest,
    Host,
    ImageCache,
    Interfaces,
    Lifecycle,
    Listing,
    LiveMigration,
    Power,
    Rescue,
    Resize,
    Resources,
    SharedStorage,
    Snapshot,
    Startup,
    Statistics,
    Volumes,
)


class ComputeDriver(
    Aggregates,
    Consoles,
    Disks,
    Events,
    Filters,
    Guest,
    Host,
    ImageCache,
    Interfaces,
    Lifecycle,
    Listing,
    LiveMigration,
    Power,
    Rescue,
    Resize,
    Resources,
    SharedStorage,
    Snapshot,
    Startup,
    Statistics,
    Volumes,
):
    """What a compute driver promises. Rules that hold for every call:

    * An instance is found by its UUID, never by the hypervisor's own number; the name is for people.
    * A missing instance is InstanceNotFound; ``destroy``, ``cleanup`` and the detaching calls tolerate it.
    * What a driver cannot do raises UnsupportedOperation (a NotImplementedError) before any side effect: callers
      fall back on it.
    * Power calls return when the new state is visible.
    """

    capabilities: ClassVar[dict[str, bool]] = {
        "has_imagecache": False,
        "supports_recreate": False,
        "supports_migrate_to_same_host": False,
    }

    def __init__(self, virtapi: Any) -> None:
        """:param virtapi: what the driver calls back (contract/callbacks.py, NetworkWaiter)"""
        self.virtapi = virtapi
        self._listener: EventListener | None = None

    @property
    def need_legacy_block_device_info(self) -> bool:
        """Does the driver want ``block_device_info`` in the shape it had before 2013?"""
        return True


__all__ = [
    "CAPABILITIES",
    "ComputeDriver",
    "block_device_info_get_ephemerals",
    "block_device_info_get_mapping",
    "block_device_info_get_root",
    "block_device_info_get_swap",
    "driver_dict_from_config",
    "get_block_device_info",
    "is_xenapi",
    "load_compute_driver",
    "swap_is_usable",
]
