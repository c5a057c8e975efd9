"""Instances come and go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.contract.types import BlockDevices, NetworkInfo
from cowshed.model.image import Image
from cowshed.model.instance import Instance


class Lifecycle:
    """Instances come and go."""

    @unfulfilled
    def spawn(
        self,
        context: Any,
        instance: Instance,
        image_meta: Image,
        injected_files: Sequence[tuple[str, bytes | str]],
        admin_password: str | None,
        network_info: NetworkInfo = None,
        block_device_info: BlockDevices = None,
    ) -> None:
        """Create the instance and start it; on return it is RUNNING.

        On any failure the host is as it was before: no domain, no files, no plugged interfaces.

        :param image_meta: the image it is created from; its properties choose firmware, buses, devices
        :param injected_files: (path in the guest, content), delivered through the config drive
        :param admin_password: told to the guest by the config drive
        :param network_info: the interfaces, in order
        :param block_device_info: swap, ephemeral disks and volumes
        :raises NameTaken: a domain or directory of this UUID exists; it is not touched
        :raises DiskTooSmall: :raises ImageRejected: :raises NoSpace: :raises NetworkNotFound: :raises PortInUse:
        """
        refuse(self, "spawn")

    @unfulfilled
    def destroy(
        self,
        context: Any,
        instance: Instance,
        network_info: NetworkInfo = None,
        block_device_info: BlockDevices = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
    ) -> None:
        """Stop the instance hard and remove it. Succeeds when half of it, or all of it, is gone already.

        :param destroy_disks: False keeps disks and directory
        :raises DeadlineExceeded: QEMU does not end; nothing is removed then
        """
        refuse(self, "destroy")

    @unfulfilled
    def cleanup(
        self,
        context: Any,
        instance: Instance,
        network_info: NetworkInfo = None,
        block_device_info: BlockDevices = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
        destroy_vifs: bool = True,
    ) -> None:
        """After the guest is down: unplug interfaces, undefine the domain, delete disks and directory.

        May be repeated, also when half of it is gone; goes on after a failure and reports the first one.

        :param destroy_disks: False keeps disks and directory
        :param destroy_vifs: False leaves the host side of the interfaces
        :param migrate_data: after a live migration: says which of its storage other hosts use still
        """
        refuse(self, "cleanup")

    def delete_instance_files(self, instance: Instance) -> bool:
        """Delete what is left on disk; True when nothing is left.

        Called again from time to time until it says True; a directory that never existed is True.
        """
        return True

    def instance_on_disk(self, instance: Instance) -> bool:
        """Are the disks of the instance reachable from this host? Asked in evacuation: True keeps the data."""
        return False

    @unfulfilled
    def soft_delete(self, instance: Instance) -> None:
        """Stop the instance, free what it uses, keep its data so that :meth:`restore` is possible.

        :raises UnsupportedOperation: the caller powers it off instead
        """
        refuse(self, "soft_delete")

    @unfulfilled
    def restore(self, instance: Instance) -> None:
        """Undo :meth:`soft_delete` and boot; nothing to do for a running instance.

        :raises UnsupportedOperation: the caller powers it on instead
        """
        refuse(self, "restore")

    @unfulfilled
    def set_bootable(self, instance: Instance, is_bootable: bool) -> None:
        """Forbid or allow that the instance is started, by us or by the hypervisor itself.

        :raises InstanceNotFound:
        """
        refuse(self, "set_bootable")
