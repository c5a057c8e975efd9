"""Images of a host, as the library and the command show them."""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.config import user
from cowshed.errors import Conflict, CowshedError, ImageNotFound, InvalidRequest, NameTaken
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image

if TYPE_CHECKING:
    from cowshed.driver import LibvirtDriver
    from cowshed.images.sweep import Removed
    from cowshed.manager.instances import Instances

_log = log.logger(__name__)

ORIGIN = "cowshed_origin"  # property of an image that was brought in by being used: the file or URL it was then
_LOCK_TIMEOUT = 3600.0  # seconds; somebody else may be downloading it


@dataclass(frozen=True, slots=True)
class StandingBase:
    """``where``: the cache, or a backend; sizes in bytes; ``users``: how many disks stand on it."""

    name: str
    image_id: str
    image: str
    where: str
    format: str
    virtual_size: int
    allocated: int
    users: int


class Images:
    """Pull, list, show, remove, verify and prune."""

    def __init__(self, driver: LibvirtDriver, instances: Instances) -> None:
        self._driver = driver
        self._instances = instances
        self.brought: list[Image] = []  # by at_hand, and kept: nobody asked for them by name

    def pull(
        self,
        source: str | Path,
        *,
        name: str | None = None,
        format: DiskFormat | str | None = None,
        digest: str | None = None,
        properties: Mapping[str, str] | None = None,
        min_disk: int = 0,
    ) -> Image:
        """Bring a path, ``file://`` or ``http(s)://`` image into the store."""
        return self._driver.pull_image(
            str(source),
            name=name,
            format=DiskFormat(format) if format else None,
            digest=digest,
            properties=properties,
            min_disk=min_disk,
        )

    def capture(self, ref: str, name: str, *, properties: Mapping[str, str] | None = None) -> Image:
        """An image of the root disk of an instance, running or not.

        :raises UnsupportedOperation: its disk is encrypted
        :raises NameTaken: an image has this name
        """
        with self._instances.holding(ref, "made an image of") as record:
            self._check_free(name)
            image = self._driver.create_image(record.instance, name, properties=properties)
            self._instances.records.update(record, "image made", name)
        return image

    def capture_all(self, ref: str, name: str, *, properties: Mapping[str, str] | None = None) -> builtins.list[Image]:
        """One image of each of its disks, at one point in time; else as :meth:`capture`."""
        with self._instances.holding(ref, "made images of") as record:
            self._check_free(name)
            images = self._driver.create_images(record.instance, name, properties=properties)
            self._instances.records.update(record, "image made", ", ".join(image.name for image in images))
        return images

    def _check_free(self, name: str) -> None:
        if self._driver.images.list(name=name):
            raise NameTaken(kind="image", name=name)

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

    def bases(self) -> Sequence[StandingBase]:
        """What was made of images for disks to stand on: in the cache, and in backends that keep their own."""
        names = {image.id: image.name for image in self.list()}
        users = self._driver.base_users()
        cached = [
            StandingBase(
                one.name,
                one.base.image_id,
                names.get(one.base.image_id, ""),
                "cache",
                str(one.base.format),
                one.base.virtual_size,
                one.allocated,
                users.get(one.base.path, 0),
            )
            for one in self._driver.cache.bases()
        ]
        kept = [
            StandingBase(
                one.name,
                one.base.image_id,
                names.get(one.base.image_id, ""),
                backend,
                str(one.base.format),
                one.base.virtual_size,
                one.allocated,
                one.users,
            )
            for backend, one in self._driver.kept_bases()
        ]
        return [*cached, *kept]

    def prune(self, *, dry_run: bool = False) -> Sequence[Removed]:
        """Remove the bases that no disk uses, wherever they are kept."""
        return self._driver.sweep_cache(dry_run=dry_run, all_unused=True)

    @contextmanager
    def at_hand(self, ref: str) -> Iterator[Image]:
        """The image called ``ref``, or made of the file or URL ``ref``.

        A file is brought in once while it does not change, a URL once. What was brought in for a
        block that fails goes again, unless somebody else has begun to use it. Otherwise it stays, and is one of ``brought``.

        :raises ImageNotFound: and what :meth:`pull` raises
        """
        with ExitStack() as held:
            image, new = self._found(ref, held)
            try:
                yield image
            except BaseException:
                held.close()
                if new:
                    self._take_back(image)
                raise
        if new:
            self.brought.append(image)

    def _found(self, ref: str, held: ExitStack) -> tuple[Image, bool]:
        """The image, and whether this call has brought it in; nobody takes it back while ``held`` is open."""
        url = "://" in ref and not ref.startswith("file://")
        path = _path(ref)
        if "/" not in ref and not ref.startswith("~"):
            try:
                return self.show(ref), False
            except ImageNotFound:
                if not path.is_file():
                    raise
        if url:
            return self._brought(ref, ref, held)
        if not path.exists():
            raise ImageNotFound(name=ref, hint="there is no such file")
        if not path.is_file():
            raise InvalidRequest(reason=f"{ref} is not a file", hint="name an image, or the file of one")
        facts = path.stat()
        return self._brought(str(path), f"{path.resolve()}:{facts.st_size}:{facts.st_mtime_ns}", held)

    def _brought(self, source: str, origin: str, held: ExitStack) -> tuple[Image, bool]:
        """Two callers that start with the same file bring it in once."""
        from cowshed.tools import locks

        bring, use = self._locks(origin)
        with locks.lock(bring, timeout=_LOCK_TIMEOUT, what=source):
            held.enter_context(locks.lock(use, shared=True, timeout=_LOCK_TIMEOUT, what=source))
            for image in self.list():
                if image.properties.get(ORIGIN) == origin:
                    return image, False
            return self.pull(source, name=self._free_name(source), properties={ORIGIN: origin}), True

    def _locks(self, origin: str) -> tuple[Path, Path]:
        """Of who brings it in or takes it back, and of all who use it meanwhile."""
        name = f"bring-{hashlib.sha256(origin.encode()).hexdigest()[:32]}"
        return self._instances.locks / name, self._instances.locks / f"{name}.use"

    def _take_back(self, image: Image) -> None:
        from cowshed.tools import locks

        bring, use = self._locks(image.properties.get(ORIGIN, image.id))
        try:
            with (
                locks.lock(bring, timeout=0, what=f"image {image.name}"),
                locks.lock(use, timeout=0, what=f"image {image.name}"),
            ):
                self.remove(image.id)
        except CowshedError as error:
            _log.warning("image %s stays: %s", image.name, error)
            return
        try:
            self._driver.forget_bases(image.id)
        except CowshedError as error:
            _log.warning("what was made of image %s stays until cowshed image prune: %s", image.name, error)

    def _free_name(self, ref: str) -> str:
        from cowshed.images.record import default_name

        taken = {image.name for image in self.list()}
        name = default_name(ref)
        candidates = (f"{name}-{number}" for number in range(2, len(taken) + 3))
        return name if name not in taken else next(one for one in candidates if one not in taken)


def _path(ref: str) -> Path:
    from urllib.parse import unquote, urlsplit

    return Path(unquote(urlsplit(ref).path)) if ref.startswith("file://") else user.path(ref)
