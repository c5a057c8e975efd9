"""The contract in the signatures of the newest Nova, over a driver that has the reference's.

``NewestFace(core)`` translates signatures and nothing else: 67 calls are handed on as they are, 19 have other arguments, 23
are gone (one of them under another name), and 22 are new. Values keep their shapes; whoever adapts to Nova's objects
derives from it. What a new argument asks for and the core does not have is refused before anything happens.
"""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Sequence
from typing import Any, Final

from cowshed.contract.compute import CAPABILITIES, ComputeDriver
from cowshed.contract.flags import flags_of, traits_of
from cowshed.contract.promise import refuse
from cowshed.contract.providers import update_provider_tree
from cowshed.contract.shares import Shares

GONE: Final = frozenset(
    [
        "add_to_aggregate",
        "remove_from_aggregate",
        "undo_aggregate_operation",
        "get_all_bw_counters",
        "set_bootable",
        "get_console_pool_info",
        "get_per_instance_usage",
        "reset_network",
        "change_instance_metadata",
        "post_interrupted_snapshot_cleanup",
        "inject_file",
        "ensure_filtering_rules_for_instance",
        "unfilter_instance",
        "filter_defer_apply_on",
        "filter_defer_apply_off",
        "refresh_security_group_rules",
        "refresh_instance_security_rules",
        "macs_for_instance",
        "estimate_instance_overhead",
        "deallocate_networks_on_reschedule",
        "dhcp_options_for_instance",
        "get_rdp_console",
        "check_can_live_migrate_destination_cleanup",
    ]
)


class NewestFace:
    """:param core: a driver with the reference's signatures"""

    def __init__(self, core: ComputeDriver) -> None:
        self.core = core

    @property
    def capabilities(self) -> dict[str, bool]:
        """The 35 flags, as they are on this host now."""
        return flags_of(self.core)

    def capabilities_as_traits(self) -> dict[str, bool]:
        return traits_of(self.capabilities)

    def _refuse_more(self, name: str, accelerators: Any = None) -> None:
        """:raises UnsupportedOperation: before anything is done"""
        if accelerators:
            refuse(self.core, name, "accelerators (GPU, FPGA) cannot be given to a guest here")

    def _give_shares(self, name: str, context: Any, instance: Any, share_info: Any) -> None:
        """From now on it has these; None: those that it has. :raises UnsupportedOperation: nothing was done"""
        if share_info is None or not (share_info or isinstance(self.core, Shares)):
            return
        self._shares(name).give_shares(context, instance, list(share_info))

    def _shares(self, name: str) -> Shares:
        if not isinstance(self.core, Shares):
            refuse(self.core, name, "shared directories (virtiofs) cannot be given to a guest here")
        return self.core

    # --- lifecycle ----------------------------------------------------------------------------

    def spawn(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Any,
        admin_password: Any,
        allocations: Any,
        network_info: Any = None,
        block_device_info: Any = None,
        power_on: bool = True,
        accel_info: Any = None,
    ) -> None:
        """``power_on`` False: it is switched off again as soon as it runs."""
        self._refuse_more("spawn", accel_info)
        self.core.spawn(context, instance, image_meta, injected_files, admin_password, network_info, block_device_info)
        if not power_on:
            self.core.power_off(instance)

    def destroy(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        """``destroy_secrets`` changes nothing: what libvirt must know of keys it is told anew at each start."""
        self.core.destroy(context, instance, network_info, block_device_info, destroy_disks)

    def cleanup(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
        destroy_vifs: bool = True,
        destroy_secrets: bool = True,
    ) -> None:
        self.core.cleanup(context, instance, network_info, block_device_info, destroy_disks, migrate_data, destroy_vifs)

    def rebuild(
        self,
        context: Any,
        instance: Any,
        image_meta: Any,
        injected_files: Any,
        admin_password: Any,
        allocations: Any,
        bdms: Any,
        detach_block_devices: Callable[..., None],
        attach_block_devices: Callable[..., Any],
        network_info: Any = None,
        evacuate: bool = False,
        block_device_info: Any = None,
        preserve_ephemeral: bool = False,
        accel_uuids: Any = None,
        reimage_boot_volume: bool = False,
    ) -> None:
        self._refuse_more("rebuild", accel_uuids)
        if reimage_boot_volume:
            refuse(self.core, "rebuild", "the volume it boots from cannot be filled with another image here")
        self.core.rebuild(
            context, instance, image_meta, injected_files, admin_password, bdms, detach_block_devices,
            attach_block_devices, network_info, evacuate, block_device_info, preserve_ephemeral,
        )  # fmt: skip

    def rescue(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        image_meta: Any,
        rescue_password: Any,
        block_device_info: Any,
        share_info: Any,
    ) -> None:
        """The volumes are those that the host remembers, whatever ``block_device_info`` says."""
        self._give_shares("rescue", context, instance, share_info)
        self.core.rescue(context, instance, network_info, image_meta, rescue_password)

    def unrescue(self, context: Any, instance: Any) -> None:
        self.core.unrescue(instance, None)

    # --- power --------------------------------------------------------------------------------

    def power_on(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        block_device_info: Any = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        self._refuse_more("power_on", accel_info)
        self._give_shares("power_on", context, instance, share_info)
        self.core.power_on(context, instance, network_info, block_device_info)

    def reboot(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        reboot_type: str,
        block_device_info: Any = None,
        bad_volumes_callback: Callable[[list[str]], None] | None = None,
        accel_info: Any = None,
        share_info: Any = None,
    ) -> None:
        self._refuse_more("reboot", accel_info)
        self._give_shares("reboot", context, instance, share_info)
        self.core.reboot(context, instance, network_info, reboot_type, block_device_info, bad_volumes_callback)

    def resume(
        self, context: Any, instance: Any, network_info: Any, block_device_info: Any = None, share_info: Any = None
    ) -> None:
        self._give_shares("resume", context, instance, share_info)
        self.core.resume(context, instance, network_info, block_device_info)

    def resume_state_on_host_boot(
        self, context: Any, instance: Any, network_info: Any, share_info: Any, block_device_info: Any = None
    ) -> None:
        self._give_shares("resume_state_on_host_boot", context, instance, share_info)
        self.core.resume_state_on_host_boot(context, instance, network_info, block_device_info)

    def get_info(self, instance: Any, use_cache: bool = True) -> Any:
        """Nothing stale is ever told, so there is nothing that ``use_cache`` could switch off."""
        return self.core.get_info(instance)

    # --- volumes and interfaces ---------------------------------------------------------------

    def detach_volume(
        self, context: Any, connection_info: Any, instance: Any, mountpoint: str, encryption: Any = None
    ) -> None:
        self.core.detach_volume(connection_info, instance, mountpoint, encryption)

    def swap_volume(
        self,
        context: Any,
        old_connection_info: Any,
        new_connection_info: Any,
        instance: Any,
        mountpoint: str,
        resize_to: int,
    ) -> None:
        self.core.swap_volume(old_connection_info, new_connection_info, instance, mountpoint, resize_to)

    def extend_volume(self, context: Any, connection_info: Any, instance: Any, requested_size: int) -> None:
        """:param requested_size: bytes"""
        self._own("extend_volume")(context, connection_info, instance, requested_size)

    def attach_interface(self, context: Any, instance: Any, image_meta: Any, vif: Any) -> None:
        self.core.attach_interface(instance, image_meta, vif)

    def detach_interface(self, context: Any, instance: Any, vif: Any) -> None:
        self.core.detach_interface(instance, vif)

    def mount_share(self, context: Any, instance: Any, share_mapping: Any) -> None:
        self._shares("mount_share").mount_share(context, instance, share_mapping)

    def umount_share(self, context: Any, instance: Any, share_mapping: Any) -> bool:
        """Where none can be mounted, none is left."""
        core = self.core
        return not isinstance(core, Shares) or core.umount_share(context, instance, share_mapping)

    def is_share_mounted(self, context: Any, instance: Any, share_mapping: Any) -> bool:
        return isinstance(self.core, Shares) and self.core.is_share_mounted(context, instance, share_mapping)

    # --- moving -------------------------------------------------------------------------------

    def finish_migration(
        self,
        context: Any,
        migration: Any,
        instance: Any,
        disk_info: Any,
        network_info: Any,
        image_meta: Any,
        resize_instance: bool,
        allocations: Any,
        block_device_info: Any = None,
        power_on: bool = True,
        share_info: Any = None,
    ) -> None:
        self._give_shares("finish_migration", context, instance, share_info)
        self.core.finish_migration(
            context,
            migration,
            instance,
            disk_info,
            network_info,
            image_meta,
            resize_instance,
            block_device_info,
            power_on,
        )

    def confirm_migration(self, context: Any, migration: Any, instance: Any, network_info: Any) -> None:
        self.core.confirm_migration(migration, instance, network_info)

    def finish_revert_migration(
        self,
        context: Any,
        instance: Any,
        network_info: Any,
        migration: Any,
        block_device_info: Any = None,
        power_on: bool = True,
        share_info: Any = None,
    ) -> None:
        self._give_shares("finish_revert_migration", context, instance, share_info)
        self.core.finish_revert_migration(context, instance, network_info, block_device_info, power_on)

    def pre_live_migration(
        self,
        context: Any,
        instance: Any,
        block_device_info: Any,
        network_info: Any,
        disk_info: Any,
        migrate_data: Any,
    ) -> Any:
        return self.core.pre_live_migration(context, instance, block_device_info, network_info, disk_info, migrate_data)

    def cleanup_live_migration_destination_check(self, context: Any, dest_check_data: Any) -> None:
        self.core.check_can_live_migrate_destination_cleanup(context, dest_check_data)

    def check_source_migrate_data_at_dest(
        self, context: Any, instance: Any, migrate_data: Any, migration: Any, limits: Any, allocs: Any
    ) -> Any:
        """No mediated devices are passed through, so there is nothing to add."""
        return migrate_data

    def post_claim_migrate_data(self, context: Any, instance: Any, migrate_data: Any, claim: Any) -> Any:
        """Guests are not pinned to NUMA nodes, so there is nothing to add."""
        return migrate_data

    def rollback_live_migration_at_source(self, context: Any, instance: Any, migrate_data: Any) -> None:
        """Nothing was taken from the guest for the move."""

    # --- the host -----------------------------------------------------------------------------

    def cache_image(self, context: Any, image_id: str) -> bool:
        """True: fetched; False: it was there already."""
        return bool(self._own("cache_image")(context, image_id))

    def update_provider_tree(self, provider_tree: Any, nodename: str, allocations: Any = None) -> None:
        update_provider_tree(self.core, provider_tree, nodename, self.capabilities_as_traits())

    def get_nodenames_by_uuid(self, refresh: bool = False) -> dict[str, str]:
        """The node by a UUID that stays the same for good."""
        (node,) = self.core.get_available_nodes(refresh)
        known = getattr(self.core, "node_uuid", None)
        return {known() if known else str(uuid.uuid5(uuid.NAMESPACE_DNS, node)): node}

    def is_node_deleted(self, nodename: str) -> bool:
        """This host is there while its driver runs."""
        return False

    def process_instances_at_startup(self, context: Any, instances: Sequence[Any]) -> None:
        """``init_host`` has done what there is to do."""

    # --- what bare metal needs, and others answer as if it were nothing --------------------------

    def prepare_for_spawn(self, instance: Any) -> None:
        """Nothing to reserve."""

    def failed_spawn_cleanup(self, instance: Any) -> None:
        """``spawn`` has undone all by itself."""

    def prepare_networks_before_block_device_mapping(self, instance: Any, network_info: Any) -> None:
        """Volumes need no network of the instance."""

    def clean_networks_preparation(self, instance: Any, network_info: Any) -> None:
        """Nothing was prepared."""

    def manages_network_binding_host_id(self) -> bool:
        return False

    def power_update_event(self, instance: Any, target_power_state: Any) -> None:
        refuse(self.core, "power_update_event", "nobody switches a guest behind the driver's back")

    def cleanup_lingering_instance_resources(self, instance: Any) -> None:
        """No persistent memory and no mediated devices are given to guests."""

    @classmethod
    def get_instance_driver_metadata(cls, instance: Any, network_info: Any) -> dict[str, Any]:
        """The driver writes the metadata of the domain itself."""
        return {}

    def _own(self, name: str) -> Callable[..., Any]:
        """A call that the reference's contract does not know. :raises UnsupportedOperation: nor the core"""
        if not (method := getattr(self.core, name, None)):
            refuse(self.core, name)
        found: Callable[..., Any] = method
        return found


def _handed_on(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(ComputeDriver, name))
    def call(self: NewestFace, *args: Any, **kwargs: Any) -> Any:
        return getattr(self.core, name)(*args, **kwargs)

    return call


SAME: Final = tuple(
    name
    for capability in CAPABILITIES
    for name in vars(capability)
    if not name.startswith("_") and name not in GONE and name not in vars(NewestFace)
)
for _name in SAME:
    setattr(NewestFace, _name, _handed_on(_name))
