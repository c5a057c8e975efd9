"""Moving a running guest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.contract.types import BlockDevices, NetworkInfo
from cowshed.model.instance import Instance


class LiveMigration:
    """Moving a running guest."""

    @unfulfilled
    def check_can_live_migrate_destination(
        self,
        context: Any,
        instance: Instance,
        src_compute_info: Any,
        dst_compute_info: Any,
        block_migration: bool | None = False,
        disk_over_commit: bool = False,
    ) -> Any:
        """At the destination: CPU, space, storage; returns what the source must know."""
        refuse(self, "check_can_live_migrate_destination")

    @unfulfilled
    def check_can_live_migrate_destination_cleanup(self, context: Any, dest_check_data: Any) -> None:
        """Remove what the check left; may be repeated."""
        refuse(self, "check_can_live_migrate_destination_cleanup")

    @unfulfilled
    def check_can_live_migrate_source(
        self, context: Any, instance: Instance, dest_check_data: Any, block_device_info: BlockDevices = None
    ) -> Any:
        """At the source: storage and sizes; returns the migrate data."""
        refuse(self, "check_can_live_migrate_source")

    @unfulfilled
    def pre_live_migration(
        self,
        context: Any,
        instance: Instance,
        block_device_info: BlockDevices,
        network_info: NetworkInfo,
        disk_info: Any,
        migrate_data: Any = None,
    ) -> Any:
        """At the destination: directory, disks, volumes, interfaces; all undone on failure."""
        refuse(self, "pre_live_migration")

    @unfulfilled
    def live_migration(
        self,
        context: Any,
        instance: Instance,
        dest: str,
        post_method: Callable[..., None],
        recover_method: Callable[..., None],
        block_migration: bool = False,
        migrate_data: Any = None,
    ) -> None:
        """At the source: move it. Calls ``post_method`` on success or ``recover_method`` on failure, exactly one."""
        refuse(self, "live_migration")

    @unfulfilled
    def live_migration_force_complete(self, instance: Instance) -> None:
        """Finish a running migration now, at the price of a pause."""
        refuse(self, "live_migration_force_complete")

    @unfulfilled
    def live_migration_abort(self, instance: Instance) -> None:
        """Cancel it; the guest goes on at the source."""
        refuse(self, "live_migration_abort")

    @unfulfilled
    def rollback_live_migration_at_destination(
        self,
        context: Any,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDevices,
        destroy_disks: bool = True,
        migrate_data: Any = None,
    ) -> None:
        """At the destination: remove what was prepared; may be repeated."""
        refuse(self, "rollback_live_migration_at_destination")

    def post_live_migration(
        self, context: Any, instance: Instance, block_device_info: BlockDevices, migrate_data: Any = None
    ) -> None:
        """At the source, once it runs elsewhere: disconnect volumes."""
        return

    @unfulfilled
    def post_live_migration_at_source(self, context: Any, instance: Instance, network_info: NetworkInfo) -> None:
        """At the source: unplug interfaces and remove filters."""
        refuse(self, "post_live_migration_at_source")

    @unfulfilled
    def post_live_migration_at_destination(
        self,
        context: Any,
        instance: Instance,
        network_info: NetworkInfo,
        block_migration: bool = False,
        block_device_info: BlockDevices = None,
    ) -> None:
        """At the destination: make the definition persistent, announce the guest."""
        refuse(self, "post_live_migration_at_destination")
