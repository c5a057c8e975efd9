"""Names and facts of local disks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.contract.types import BlockDevices
from cowshed.model.image import Image
from cowshed.model.instance import Instance


class Disks:
    """Names and facts of local disks."""

    @unfulfilled
    def get_instance_disk_info(self, instance: Instance, block_device_info: BlockDevices = None) -> str:
        """JSON list of the local disks: type, path, virt_disk_size, backing_file, disk_size, over_committed_disk_size (bytes).

        Volumes and network disks are left out. Opaque to the caller; it travels to the other host.

        :raises InstanceNotFound:
        """
        refuse(self, "get_instance_disk_info")

    @unfulfilled
    def default_root_device_name(self, instance: Instance, image_meta: Image, root_bdm: Any) -> str:
        """The name of the root disk, such as ``/dev/vda``."""
        refuse(self, "default_root_device_name")

    @unfulfilled
    def default_device_names_for_instance(
        self, instance: Instance, root_device_name: str, *block_device_lists: Sequence[Any]
    ) -> None:
        """Fill in the missing ``device_name`` of each block device, in place; order: ephemerals, swap, volumes."""
        refuse(self, "default_device_names_for_instance")

    @unfulfilled
    def get_device_name_for_instance(self, instance: Instance, bdms: Sequence[Any], block_device_obj: Any) -> str:
        """The next free device name.

        :raises InvalidRequest: the bus is full
        """
        refuse(self, "get_device_name_for_instance")

    def is_supported_fs_format(self, fs_type: str) -> bool:
        """Can ephemeral disks have the file system ``fs_type`` (``ext4``, ``xfs``, ``vfat``, ...) here?"""
        return False
