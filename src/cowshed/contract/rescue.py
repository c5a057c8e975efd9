"""Boot from another image, and rebuild."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.contract.types import BlockDevices, NetworkInfo
from cowshed.model.image import Image
from cowshed.model.instance import Instance


class Rescue:
    """Boot from another image, and rebuild."""

    @unfulfilled
    def rescue(
        self, context: Any, instance: Instance, network_info: NetworkInfo, image_meta: Image, rescue_password: str
    ) -> None:
        """Boot from a rescue image with the original disks attached; they are not touched.

        :param image_meta: the rescue image
        :param rescue_password: told to the rescue system
        :raises CowshedError: the rescue disks cannot be made; the instance runs on as it was
        """
        refuse(self, "rescue")

    @unfulfilled
    def unrescue(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Back to the original definition, running; the rescue disks are deleted. Nothing to do for one that is not rescued."""
        refuse(self, "unrescue")

    @unfulfilled
    def rebuild(
        self,
        context: Any,
        instance: Instance,
        image_meta: Image,
        injected_files: Sequence[tuple[str, bytes | str]],
        admin_password: str | None,
        bdms: Any,
        detach_block_devices: Callable[..., None],
        attach_block_devices: Callable[..., BlockDevices],
        network_info: NetworkInfo = None,
        recreate: bool = False,
        block_device_info: BlockDevices = None,
        preserve_ephemeral: bool = False,
    ) -> None:
        """Replace the root disk by a new one from ``image_meta``; UUID, interfaces and volumes stay.

        :param bdms: its block devices, handed to the two call-backs
        :param detach_block_devices: called with (context, bdms) when it is off, before the disks are replaced
        :param attach_block_devices: called with (context, instance, bdms) afterwards, also where it fails; gives the new
            block_device_info, which it is started with
        :param recreate: the former host is lost: keep disks that are reachable from here
        :param preserve_ephemeral: keep the ephemeral disks
        :raises UnsupportedOperation: the caller powers it off, destroys it and spawns it anew
        """
        refuse(self, "rebuild")
