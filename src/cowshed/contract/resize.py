"""Cold migration and resize between two hosts."""

from __future__ import annotations

from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.contract.types import BlockDevices, NetworkInfo
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance


class Resize:
    """Cold migration and resize between two hosts."""

    @unfulfilled
    def migrate_disk_and_power_off(
        self,
        context: Any,
        instance: Instance,
        dest: str,
        flavor: Flavor,
        network_info: NetworkInfo,
        block_device_info: BlockDevices = None,
        timeout: float = 0,
        retry_interval: float = 0,
    ) -> str:
        """Stop the instance and copy its disks to ``dest``; the source is kept for a revert.

        :param dest: address of the destination; may be this host
        :param flavor: the new flavor
        :param timeout: and retry_interval: seconds, as for :meth:`power_off`
        :returns: JSON as from ``get_instance_disk_info``, for :meth:`finish_migration`
        :raises DiskTooSmall: the new flavor would cut a disk; nothing was done
        """
        refuse(self, "migrate_disk_and_power_off")

    @unfulfilled
    def finish_migration(
        self,
        context: Any,
        migration: Any,
        instance: Instance,
        disk_info: str,
        network_info: NetworkInfo,
        image_meta: Image,
        resize_instance: bool,
        block_device_info: BlockDevices = None,
        power_on: bool = True,
    ) -> None:
        """At the destination: grow disks if ``resize_instance``, define, start if ``power_on``.

        :param disk_info: what :meth:`migrate_disk_and_power_off` returned
        """
        refuse(self, "finish_migration")

    @unfulfilled
    def confirm_migration(self, migration: Any, instance: Instance, network_info: NetworkInfo) -> None:
        """At the source: give up what was kept for a revert. May be repeated."""
        refuse(self, "confirm_migration")

    @unfulfilled
    def finish_revert_migration(
        self,
        context: Any,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDevices = None,
        power_on: bool = True,
    ) -> None:
        """At the source: take back what was kept, and start it if ``power_on``. May be repeated."""
        refuse(self, "finish_revert_migration")
