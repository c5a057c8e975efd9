"""What a disk from an image stands on: the image itself inside the storage, a base that the storage
keeps, or a base in the cache.

In this order. A base that happens to lie in the cache never keeps a backend from doing better.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cowshed import log
from cowshed.contract.storage import BaseContent, BaseKeeping, Clonable, Cloning, OpenSink
from cowshed.driver.steps import kept
from cowshed.errors import CowshedError, InternalError, NotFound
from cowshed.model.disk import Base, DiskFormat
from cowshed.model.image import Image, Location

if TYPE_CHECKING:
    from cowshed.contract.storage import Backend, Disk
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)


def make(rooms: Rooms, backend: Backend, disk: Disk, image: Image, size: int, *, encrypt: bool = False) -> None:
    """``disk`` with the content of ``image``, grown to ``size`` bytes (0: as large as the image).

    :raises DiskTooSmall: :raises NameTaken: and what fetching the image raises
    """
    if not encrypt and isinstance(disk, Clonable) and (location := cloneable(rooms, backend, image)):
        return disk.clone(location, size)
    if isinstance(backend, BaseKeeping):
        return _on_kept(rooms, backend, disk, image, size, encrypt=encrypt)
    return _on_cached(rooms, backend, disk, image, size, encrypt=encrypt)


def _on_cached(rooms: Rooms, backend: Backend, disk: Disk, image: Image, size: int, *, encrypt: bool) -> None:
    with rooms.cache.using(base_name(rooms, backend, image)):
        disk.create(size, cached(rooms, backend, image), encrypt=encrypt, progress=rooms.progress)


def cloneable(rooms: Rooms, backend: Backend, image: Image) -> Location | None:
    """Where the image's bytes lie such that ``backend`` can stand a disk on them.

    A service that cannot tell is no obstacle: the base may be there already, or fetching it says what is wrong.
    """
    if not isinstance(backend, Cloning):
        return None
    try:
        found = rooms.images.locations(image)
    except CowshedError as error:
        _log.info("it is not known where the bytes of image %s lie: %s", image.name or image.id, error)
        return None
    return next((one for one in found if backend.cloneable(one, image.disk_format)), None)


def _on_kept(rooms: Rooms, backend: Backend, disk: Disk, image: Image, size: int, *, encrypt: bool) -> None:
    """Another host that shares the storage may remove an unused base just before the disk stands on it."""
    base = keep(rooms, backend, image)
    try:
        disk.create(size, base, encrypt=encrypt, progress=rooms.progress)
    except NotFound:
        if _find(rooms, backend, image) is not None:
            raise
        _log.info("the base of image %s has gone; making it again", image.name or image.id)
        disk.create(size, keep(rooms, backend, image), encrypt=encrypt, progress=rooms.progress)


def have(rooms: Rooms, backend: Backend, image: Image) -> bool:
    """See to it that a disk of ``image`` costs no fetch on ``backend``; False: it was so already."""
    if cloneable(rooms, backend, image) or _find(rooms, backend, image):
        return False
    if isinstance(backend, BaseKeeping):
        keep(rooms, backend, image)
    else:
        cached(rooms, backend, image)
    return True


def _find(rooms: Rooms, backend: Backend, image: Image) -> Base | None:
    name = base_name(rooms, backend, image)
    return backend.find_base(name) if isinstance(backend, BaseKeeping) else rooms.cache.lookup(name)


# --- the two kinds of bases -----------------------------------------------------------------------


def cached(rooms: Rooms, backend: Backend, image: Image) -> Base:
    """The cached base of ``image`` that ``backend`` needs, fetched if it is not there yet."""
    wanted = _base_format(rooms, backend, image)
    return rooms.cache.get(image, rooms.images, format=wanted, progress=rooms.progress)


def keep(rooms: Rooms, backend: Backend, image: Image) -> Base:
    """The base of ``image`` in the backend's own storage, written there in one pass if it is not there yet.

    :raises DigestMismatch: what was fetched, now or when the base was made, is not what the image's record says
    """
    from cowshed.images import fetch, origin

    if not isinstance(backend, BaseKeeping):
        raise InternalError(reason=f"the backend {backend.traits.name} keeps no bases")

    def fill(open_sink: OpenSink) -> BaseContent:
        place = rooms.cache.root
        found, copied = fetch.fill(image, rooms.images, open_sink, place, keep_format=False, progress=rooms.progress)
        return BaseContent(found.virtual_size, copied.digest, origin.source_digest(image, copied.source_digest))

    name = base_name(rooms, backend, image)
    base = backend.add_base(name, image.id, fill, progress=rooms.progress)
    origin.check(f"the base {name}", image, base.source_digest)
    kept.touch(rooms, backend.traits.name, name)
    return base


def base_name(rooms: Rooms, backend: Backend, image: Image) -> str:
    from cowshed.images.cache import name_of

    return name_of(image.id, _base_format(rooms, backend, image))


def _base_format(rooms: Rooms, backend: Backend, image: Image) -> DiskFormat:
    """Raw inside a storage; in the cache also an image as it is, where that is configured and the disk can use it."""
    traits = backend.traits
    both = traits.disk_format == image.disk_format == DiskFormat.QCOW2
    if rooms.config.cache.keep_format and both and not traits.keeps_bases:
        return DiskFormat.QCOW2
    return traits.base_format
