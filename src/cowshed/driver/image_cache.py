"""Image cache: which bases nobody needs any more."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cowshed import clock
from cowshed.contract.image_cache import ImageCache as ImageCacheContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import provision, sweep

if TYPE_CHECKING:
    from cowshed.images.sweep import Removed


class ImageCache(ImageCacheContract):
    rooms: Rooms

    def manage_image_cache(self, context: Any, all_instances: Sequence[Any]) -> None:
        """Remove bases that no disk has used for the configured age.

        Use is read from the manifests of this state directory, which every host that shares the
        directory shares too; ``all_instances`` adds nothing to that.
        """
        self.sweep_cache()

    def sweep_cache(self, *, dry_run: bool = False, all_unused: bool = False) -> Sequence[Removed]:
        """:param all_unused: also those that were used a moment ago"""
        from cowshed.images.sweep import sweep as sweep_bases

        section = self.rooms.config.cache
        return sweep_bases(
            self.rooms.cache,
            lambda: sweep.bases_in_use(self.rooms),
            now=clock.current().time(),
            max_age=0 if all_unused else section.max_age,
            max_size=section.max_size,
            dry_run=dry_run,
        )

    def cache_image(self, context: Any, image_id: str) -> bool:
        """Have the base of an image ready for the default backend.

        :returns: True when it was fetched, False when it was there already
        """
        backend = self.rooms.backend("")
        image = self.rooms.images.show(image_id)
        if self.rooms.cache.find(image.id, backend.traits.base_format):
            return False
        provision.base(self.rooms, backend, image)
        return True
