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
        """At the destination: do CPU, space and storage allow it? Returns what the source must know.

        Leaves a file that shows the source whether storage is shared; the caller has it removed by
        :meth:`check_can_live_migrate_destination_cleanup` whatever happens.

        :param src_compute_info: what the source said of itself (``cpu_info``, versions); dst_compute_info: the same of here
        :param block_migration: copy the disks too; None: as the storage demands
        :param disk_over_commit: compare with what disks hold now instead of what they may grow to
        :raises HostUnsuitable: CPU or space do not suffice
        """
        refuse(self, "check_can_live_migrate_destination")

    @unfulfilled
    def check_can_live_migrate_destination_cleanup(self, context: Any, dest_check_data: Any) -> None:
        """Remove what the check left at the destination; may be repeated."""
        refuse(self, "check_can_live_migrate_destination_cleanup")

    @unfulfilled
    def check_can_live_migrate_source(
        self, context: Any, instance: Instance, dest_check_data: Any, block_device_info: BlockDevices = None
    ) -> Any:
        """At the source: is storage shared, do the disks fit? Returns the migrate data for all later calls.

        :param dest_check_data: what the destination's check returned
        :raises InvalidRequest: disks shall be copied and are shared, or shall not and are not
        :raises HostUnsuitable: the disks do not fit
        """
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
        """At the destination: make directory, disks, volumes and interfaces ready; all undone on failure.

        :param disk_info: what ``get_instance_disk_info`` said at the source
        :returns: ``migrate_data`` with what this host adds, such as its addresses
        :raises NameTaken: the directory exists
        """
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
        """At the source: move the running guest to ``dest``; returns when it is over.

        Exactly one of the two is called: ``post_method(context, instance, dest, block_migration, migrate_data)`` after
        success, ``recover_method(context, instance, dest, migrate_data[, migration_status])`` after failure or abort.
        Success is judged by where the guest runs, not by what an error says.

        :param dest: host name of the destination
        :raises InvalidRequest: it is no host name
        """
        refuse(self, "live_migration")

    @unfulfilled
    def live_migration_force_complete(self, instance: Instance) -> None:
        """Finish a running migration now, at the price of a pause of the guest.

        :raises InvalidState: none is running
        """
        refuse(self, "live_migration_force_complete")

    @unfulfilled
    def live_migration_abort(self, instance: Instance) -> None:
        """Cancel a running migration; the guest goes on at the source.

        :raises InvalidState: none is running, or it is past the point of return
        """
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
        """At the destination: remove what was prepared; may be repeated.

        :param destroy_disks: False when the disks are the source's own, on shared storage
        """
        refuse(self, "rollback_live_migration_at_destination")

    def post_live_migration(
        self, context: Any, instance: Instance, block_device_info: BlockDevices, migrate_data: Any = None
    ) -> None:
        """At the source, once the guest runs elsewhere: disconnect its volumes. Errors are logged only."""
        return

    @unfulfilled
    def post_live_migration_at_source(self, context: Any, instance: Instance, network_info: NetworkInfo) -> None:
        """At the source, once the guest runs elsewhere: unplug interfaces, remove filters."""
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
        """At the destination, once the guest runs here: make its definition persistent, announce it to the network."""
        refuse(self, "post_live_migration_at_destination")
