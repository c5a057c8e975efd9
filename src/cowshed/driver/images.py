"""Images: cowshed's own door to the image service (the contract leaves it to the caller)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from cowshed.contract.imaging import ImageService
from cowshed.driver.rooms import Rooms
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image

if TYPE_CHECKING:
    from cowshed.contract.storage import Backend
    from cowshed.images.cache import Cache


class Images:
    rooms: Rooms

    @property
    def images(self) -> ImageService:
        """The image service of this host."""
        return self.rooms.images

    @property
    def cache(self) -> Cache:
        return self.rooms.cache

    @property
    def backends(self) -> Mapping[str, Backend]:
        return self.rooms.backends

    def pull_image(
        self,
        source: str,
        *,
        name: str | None = None,
        format: DiskFormat | None = None,
        digest: str | None = None,
        properties: Mapping[str, str] | None = None,
        min_disk: int = 0,
    ) -> Image:
        """Bring a file, file:// or http(s):// image into the store, inspected and hashed on the way.

        :param digest: ``sha256:<hex>`` or ``sha512:<hex>`` over the bytes as they are downloaded
        """
        from cowshed.images import pull
        from cowshed.images.staging import store_for

        return pull.pull(
            store_for(self.rooms.images, self.rooms.state / "images", self.rooms.config.images, self.rooms.progress),
            source,
            name=name,
            format=format,
            digest=digest,
            properties=properties or {},
            min_disk=min_disk,
            progress=self.rooms.progress,
        )
