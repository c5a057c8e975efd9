"""Disks: names and facts of local disks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cowshed.contract.disks import Disks as DisksContract
from cowshed.contract.types import BlockDevices
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import disk_info
from cowshed.model.disk import Bus
from cowshed.model.image import Image
from cowshed.model.instance import Instance


class Disks(DisksContract):
    rooms: Rooms

    @property
    def need_legacy_block_device_info(self) -> bool:
        return False

    def get_instance_disk_info(self, instance: Instance, block_device_info: BlockDevices = None) -> str:
        return disk_info.told(self.rooms, instance)

    def default_root_device_name(self, instance: Instance, image_meta: Image, root_bdm: Any) -> str:
        from cowshed.domain import naming

        buses = naming.buses(image_meta, disks=self.rooms.config.disks, guest=self.rooms.config.guest)
        return "/dev/" + naming.Names().take(buses.disk)

    def default_device_names_for_instance(
        self, instance: Instance, root_device_name: str, *block_device_lists: Sequence[Any]
    ) -> None:
        from cowshed.domain import naming

        names = naming.Names([(root_device_name.removeprefix("/dev/"), Bus.VIRTIO)])
        given = [bdm for group in block_device_lists for bdm in group]
        for bdm in given:
            if bdm.get("device_name"):
                names.take(Bus(bdm.get("disk_bus") or Bus.VIRTIO), bdm["device_name"])
        for bdm in given:
            if not bdm.get("device_name"):
                bdm["device_name"] = "/dev/" + names.take(Bus(bdm.get("disk_bus") or Bus.VIRTIO))
                if hasattr(bdm, "save"):
                    bdm.save()

    def get_device_name_for_instance(self, instance: Instance, bdms: Sequence[Any], block_device_obj: Any) -> str:
        from cowshed.domain import naming

        taken = [
            (bdm["device_name"].removeprefix("/dev/"), Bus(bdm.get("disk_bus") or Bus.VIRTIO))
            for bdm in bdms
            if bdm.get("device_name")
        ]
        return "/dev/" + naming.Names(taken).take(Bus(block_device_obj.get("disk_bus") or Bus.VIRTIO))

    def is_supported_fs_format(self, fs_type: str) -> bool:
        from cowshed.tools import mkfs
        from cowshed.tools.run import find

        return fs_type in mkfs.KNOWN and fs_type != "swap" and find(f"mkfs.{fs_type}") is not None
