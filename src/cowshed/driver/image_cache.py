"""Image cache: which bases nobody needs any more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from cowshed import clock
from cowshed.contract.image_cache import ImageCache as ImageCacheContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import bases, kept, sweep

if TYPE_CHECKING:
    from pathlib import Path

    from cowshed.images.sweep import Removed
    from cowshed.model.disk import KeptBase


class ImageCache(ImageCacheContract):
    rooms: Rooms

    def manage_image_cache(self, context: Any, all_instances: Sequence[Any]) -> None:
        """Remove bases that no disk has used for the configured age.

        Use is read from the manifests of this state directory, which every host that shares the
        directory shares too; ``all_instances`` adds nothing to that.
        """
        self.sweep_cache()

    def sweep_cache(self, *, dry_run: bool = False, all_unused: bool = False) -> Sequence[Removed]:
        """In the cache, and in the storage of the backends that keep their own.

        :param all_unused: also those that were used a moment ago
        """
        from cowshed.images.sweep import sweep as sweep_bases

        if not dry_run:
            sweep.leftovers(self.rooms)
        section = self.rooms.config.cache
        max_age = 0 if all_unused else section.max_age
        removed = sweep_bases(
            self.rooms.cache,
            lambda: sweep.bases_in_use(self.rooms),
            now=clock.current().time(),
            max_age=max_age,
            max_size=section.max_size,
            dry_run=dry_run,
        )
        return [*removed, *kept.sweep(self.rooms, max_age=max_age, dry_run=dry_run)]

    def forget_bases(self, image_id: str) -> Sequence[Removed]:
        """Those of an image that is gone, and comes under another id if it comes again; what disks stand on stays."""
        from cowshed.images.sweep import sweep as sweep_bases

        removed = sweep_bases(
            self.rooms.cache,
            lambda: sweep.bases_in_use(self.rooms),
            now=clock.current().time(),
            max_age=0,
            image_id=image_id,
        )
        return [*removed, *kept.sweep(self.rooms, max_age=0, image_id=image_id)]

    def base_users(self) -> Mapping[Path, int]:
        """How many disks stand on each cached base. :raises DataCorrupt: a manifest cannot be read"""
        return sweep.base_users(self.rooms)

    def kept_bases(self) -> Sequence[tuple[str, KeptBase]]:
        """(backend, base) of those that backends keep in their own storage."""
        return list(kept.bases(self.rooms))

    def cache_image(self, context: Any, image_id: str) -> bool:
        """Have the base of an image ready for the default backend.

        :returns: True when it was fetched, False when it was there already
        """
        return bases.have(self.rooms, self.rooms.backend(""), self.rooms.images.show(image_id))
