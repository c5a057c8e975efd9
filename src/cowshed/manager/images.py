"""Images of a host, as the library and the command show them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed.errors import Conflict, ImageNotFound
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image

if TYPE_CHECKING:
    from cowshed.driver import LibvirtDriver
    from cowshed.images.sweep import Removed
    from cowshed.manager.instances import Instances

FILE_PROPERTY = "cowshed_file"


class Images:
    """Pull, list, show, remove, verify and prune."""

    def __init__(self, driver: LibvirtDriver, instances: Instances) -> None:
        self._driver = driver
        self._instances = instances

    def pull(
        self,
        source: str,
        *,
        name: str | None = None,
        format: DiskFormat | str | None = None,
        digest: str | None = None,
        properties: Mapping[str, str] | None = None,
        min_disk: int = 0,
    ) -> Image:
        """Bring a path, ``file://`` or ``http(s)://`` image into the store."""
        return self._driver.pull_image(
            source,
            name=name,
            format=DiskFormat(format) if format else None,
            digest=digest,
            properties=properties,
            min_disk=min_disk,
        )

    def list(self) -> Sequence[Image]:
        return self._driver.images.list()

    def show(self, ref: str) -> Image:
        return self._driver.images.show(ref)

    def users(self, image: Image) -> Sequence[str]:
        """Names of the instances made from it."""
        return [record.name for record in self._instances.records.all() if record.instance.image_ref == image.id]

    def remove(self, ref: str, *, force: bool = False) -> Image:
        """Disks that were made from it stay whole: their base is kept as long as they use it.

        :raises Conflict: instances were made from it (unless ``force``)
        """
        image = self.show(ref)
        if (users := self.users(image)) and not force:
            raise Conflict(
                reason=f"image {image.name} is used by {', '.join(users)}",
                hint="remove them first, or use --force: their disks stay whole, but cannot be rebuilt from it",
            )
        self._driver.images.delete(image.id)
        return image

    def verify(self, ref: str) -> Image:
        """Read the stored bytes and the bases made from them again.

        :raises DigestMismatch: some have changed
        """
        image = self.show(ref)
        self._driver.images.verify(image, progress=self._driver.rooms.progress)
        for cached in self._driver.cache.bases():
            if cached.base.image_id == image.id:
                self._driver.cache.verify(cached.base, progress=self._driver.rooms.progress)
        return image

    def prune(self, *, dry_run: bool = False) -> Sequence[Removed]:
        """Remove the bases that no disk uses."""
        return self._driver.sweep_cache(dry_run=dry_run, all_unused=True)

    def of(self, ref: str) -> Image:
        """The image called ``ref``, or made of the file ``ref`` (imported once while it does not change)."""
        path = Path(ref).expanduser()
        if "/" not in ref and not ref.startswith("~"):
            try:
                return self.show(ref)
            except ImageNotFound:
                if not path.is_file():
                    raise
        if not path.exists() and "://" not in ref:
            raise ImageNotFound(name=ref, hint="there is no such file")
        return self._imported(ref, path)

    def _imported(self, ref: str, path: Path) -> Image:
        properties = {}
        if path.is_file():
            facts = path.stat()
            identity = f"{path.resolve()}:{facts.st_size}:{facts.st_mtime_ns}"
            properties = {FILE_PROPERTY: identity}
            for image in self.list():
                if image.properties.get(FILE_PROPERTY) == identity:
                    return image
        return self.pull(ref, name=self._free_name(ref), properties=properties)

    def _free_name(self, ref: str) -> str:
        from cowshed.images.record import default_name

        taken = {image.name for image in self.list()}
        name = default_name(ref)
        candidates = (f"{name}-{number}" for number in range(2, len(taken) + 3))
        return name if name not in taken else next(one for one in candidates if one not in taken)
