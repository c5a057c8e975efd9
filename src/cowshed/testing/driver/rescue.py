"""The fake's rescue and rebuild: it boots from another image, or from a new disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from cowshed.contract.types import BlockDevices, NetworkInfo
from cowshed.errors import InvalidState
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.testing.driver.lifecycle import FakeLifecycle


class FakeRescue(FakeLifecycle):
    def rescue(
        self, context: Any, instance: Instance, network_info: NetworkInfo, image_meta: Image, rescue_password: str
    ) -> None:
        guest = self._find(instance)
        if guest.rescued_with:
            raise InvalidState(name=guest.name, state="rescued", action="rescued")
        self.images.show(image_meta.id)
        self._off(guest)
        guest.rescued_with = image_meta
        self._boot(guest)

    def unrescue(self, instance: Instance, network_info: NetworkInfo) -> None:
        guest = self._find(instance)
        if guest.rescued_with:
            self._off(guest)
            guest.rescued_with = None
            self._boot(guest)

    def rebuild(
        self,
        context: Any,
        instance: Instance,
        image_meta: Image,
        injected_files: Sequence[tuple[str, bytes | str]],
        admin_password: str | None,
        bdms: Any,
        detach_block_devices: Callable[..., None] | None,
        attach_block_devices: Callable[..., BlockDevices] | None,
        network_info: NetworkInfo = None,
        recreate: bool = False,
        block_device_info: BlockDevices = None,
        preserve_ephemeral: bool = False,
    ) -> None:
        """The root disk only; ephemeral ones stay in any case."""
        guest = self._find(instance)
        self.images.show(image_meta.id)
        self._off(guest)
        if detach_block_devices:
            detach_block_devices(context, bdms)
        disk = self._backend(guest.instance.backend).disk(instance.uuid, "disk")
        disk.delete()
        self._fill(disk, image_meta, guest.instance.flavor.root)
        if attach_block_devices:
            attach_block_devices(context, instance, bdms)
        guest.image = image_meta
        self._boot(guest)

    def rescued(self, instance: Instance) -> bool:
        return self._find(instance).rescued_with is not None

    def remembered_image(self, instance: Instance) -> Image:
        return Image(id=instance.image_ref)
