"""The directory image service: one folder per image, no server.

::

    images/<id>/data            the stored bytes, read-only
    images/<id>/image.json      the record
    images/.new-<id>/           an image on its way; nobody sees it
    images/.gone-<id>/          an image on its way out
    images/.partial/            broken downloads that can be resumed
    images/.lock                held for a moment to choose names and to publish

Publishing is one rename of a folder whose files are durable, so an image is there whole or not at all.
"""

from __future__ import annotations

import builtins
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final

from cowshed import clock, log
from cowshed.config import ImagesSection
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.imaging import ImageService
from cowshed.errors import (
    Conflict,
    DataCorrupt,
    ImageNotFound,
    InternalError,
    InvalidRequest,
    NameTaken,
)
from cowshed.images import incoming, partial, record
from cowshed.images.incoming import DATA, GONE, RECORD, Incoming
from cowshed.model.image import Image, ImageStatus, Location
from cowshed.tools import checksum, filesystem, locks, reflink, sparse

_log = log.logger(__name__)

_ID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_SHORTEST_PREFIX: Final = 8
_LOCK_TIMEOUT: Final = 30.0  # seconds; it is held for milliseconds
_CHANGEABLE: Final = ("name", "properties", "min_disk", "min_ram")


class DirectoryService(ImageService):
    """Images in the directory ``root``. Any number of threads and processes may share one.

    :param section: which formats may enter, and how large an image may be
    """

    def __init__(self, root: Path, section: ImagesSection | None = None) -> None:
        self.root = root
        self.section = section or ImagesSection()

    # --- find ---------------------------------------------------------------------------------

    def show(self, ref: str) -> Image:
        """The image with this id, name, or beginning of an id (8 characters or more).

        :raises ImageNotFound: :raises Conflict: several ids begin so :raises DataCorrupt: its record is damaged
        """
        if _ID.fullmatch(ref):
            with suppress(ImageNotFound):
                return self._read(ref)
        images = self.list()
        if named := [image for image in images if image.name == ref]:
            return _only(named, ref)
        if len(ref) >= _SHORTEST_PREFIX and (begun := [image for image in images if image.id.startswith(ref)]):
            return _only(begun, ref)
        raise ImageNotFound(name=ref, hint="`cowshed image ls` shows what there is, `cowshed image pull` brings more")

    def list(self, *, name: str | None = None) -> Sequence[Image]:
        """A damaged record is logged and left out, so that it does not hide the others."""
        found = []
        for image_id in self._ids():
            try:
                found.append(self._read(image_id))
            except ImageNotFound:
                continue  # deleted just now
            except DataCorrupt as error:
                _log.warning("%s", error)
        return sorted(
            (image for image in found if name is None or image.name == name),
            key=lambda image: (image.created_at, image.id),
        )

    def _ids(self) -> builtins.list[str]:
        with filesystem.errors_of(self.root, "read"), suppress(FileNotFoundError):
            return [entry for entry in os.listdir(self.root) if _ID.fullmatch(entry)]
        return []

    def _read(self, image_id: str) -> Image:
        path = self.root / image_id / RECORD
        with filesystem.errors_of(path, "read"):
            try:
                image = record.read(path)
            except (FileNotFoundError, NotADirectoryError):
                raise ImageNotFound(name=image_id) from None
        if image.id != image_id:
            raise DataCorrupt(path=path, reason=f"it is the record of another image, {image.id}")
        return image

    # --- read ---------------------------------------------------------------------------------

    def local_path(self, image: Image) -> Path:
        """:raises ImageNotFound:"""
        path = self.root / image.id / DATA
        if not _ID.fullmatch(image.id) or not path.exists():
            recorded = bool(_ID.fullmatch(image.id)) and path.with_name(RECORD).exists()
            hint = f"its record is there, but not its bytes, {path}; remove it and pull it again" if recorded else None
            raise ImageNotFound(name=image.name or image.id, hint=hint)
        return path

    def locations(self, image: Image) -> Sequence[Location]:
        return (Location(url=self.local_path(image).absolute().as_uri()),)

    def open(self, image: Image, *, offset: int = 0) -> BinaryIO:
        file = os.fdopen(self._open(image), "rb")
        file.seek(offset)
        return file

    def _open(self, image: Image) -> int:
        path = self.local_path(image)
        with filesystem.errors_of(path, "read"):
            return filesystem.open_regular(path)

    def download(self, image: Image, target: Path, *, progress: Progress = SILENT) -> None:
        progress.phase("copy", image.size)
        source = self._open(image)
        try:
            with filesystem.publish(target) as publication:
                if not reflink.clone(source, publication.fd):
                    sparse.copy(source, publication.fd, progress=progress)
                self._check(image, publication.path, progress)
        finally:
            os.close(source)

    def verify(self, image: Image, *, progress: Progress = SILENT) -> None:
        """Read all stored bytes again.

        :raises DigestMismatch: they are not the ones that were stored
        :raises DataCorrupt: they are fewer or more than that, or the record has no digest
        """
        self._check(image, self.local_path(image), progress)

    def _check(self, image: Image, path: Path, progress: Progress) -> None:
        size = path.stat().st_size
        if size != image.size:
            raise DataCorrupt(path=path, reason=f"it has {size} bytes instead of {image.size}")
        if not image.os_hash_value:
            raise DataCorrupt(path=path, reason="its record has no digest")
        progress.phase("verify", image.size)
        actual = checksum.of_file(path, image.os_hash_algo, progress=progress)
        checksum.check(f"image {image.name or image.id}", image.os_hash_algo, image.os_hash_value, actual)

    # --- write --------------------------------------------------------------------------------

    def upload(self, image: Image, source: BinaryIO, *, progress: Progress = SILENT) -> Image:
        from cowshed.images import pull

        return pull.store_stream(self, image, source, progress=progress)

    @contextmanager
    def incoming(self, image: Image) -> Iterator[Incoming]:
        """A place for a new image; it vanishes when the block ends without :meth:`publish`.

        :param image: with the wanted name; an empty id is filled in
        :raises NameTaken: the name or id is in use, or on its way
        :raises InvalidRequest: the name cannot be one
        """
        image = replace(image, id=image.id or str(uuid.uuid4()), status=ImageStatus.SAVING)
        if not _ID.fullmatch(image.id):
            raise InvalidRequest(reason=f"{image.id!r} is not an image id", hint="image ids are UUIDs in lower case")
        if image.name:
            record.check_name(image.name)
        filesystem.make_directory(self.root, mode=0o700)
        with self._lock():
            self._clean()
            self._check_free(image)
            place = Incoming(self.root, image)
        try:
            yield place
        finally:
            place.discard()  # already renamed when it was published
            place.close()

    def publish(self, place: Incoming, image: Image) -> Image:
        """Let ``image`` appear, complete and durable, with the data in ``place``."""
        now = clock.current().time()
        image = replace(
            image,
            status=ImageStatus.ACTIVE,
            created_at=image.created_at or now,
            updated_at=now,
            size=os.fstat(place.fd).st_size,
        )
        if not image.os_hash_value or image.id != place.image.id:
            raise InternalError(reason="an image is published without a digest or under another id")
        place.settle(image)
        with self._lock():
            place.publish()
        return image

    def check_name_free(self, name: str) -> None:
        """:raises NameTaken: an image has it, or will have it in a moment :raises InvalidRequest: nothing can have it"""
        record.check_name(name)
        if self._has(name):
            hint = f"choose another name, or remove that one: cowshed image rm {name}"
            raise NameTaken(kind="image", name=name, hint=hint)
        if name in incoming.names(self.root):
            raise NameTaken(kind="image", name=name, hint="somebody is just bringing it in; wait for that")

    def _has(self, name: str) -> bool:
        return any(image.name == name for image in self.list())

    def _check_free(self, image: Image) -> None:
        if (self.root / image.id).exists() or (self.root / (incoming.PREFIX + image.id)).exists():
            raise NameTaken(kind="image", name=image.id)
        if image.name:
            self.check_name_free(image.name)

    def update(self, image_id: str, changes: Mapping[str, Any]) -> Image:
        """Change name, properties (replaced as a whole), min_disk or min_ram.

        :raises ImageNotFound: :raises NameTaken: :raises InvalidRequest: something else shall change
        """
        if unknown := [key for key in changes if key not in _CHANGEABLE]:
            raise InvalidRequest(
                reason=f"{', '.join(unknown)} of an image cannot be changed", hint=f"{', '.join(_CHANGEABLE)} can"
            )
        image = self.show(image_id)
        with self._lock():
            image = self._read(image.id)
            if changes.get("name", image.name) != image.name:
                self.check_name_free(changes["name"])
            image = replace(image, **_typed(changes), updated_at=clock.current().time())
            filesystem.write_atomically(self.root / image.id / RECORD, record.encode(image))
        return image

    def delete(self, image_id: str) -> None:
        folder = self.root / self._id_to_delete(image_id)
        gone = self.root / f"{GONE}{folder.name}"
        with filesystem.errors_of(folder, "delete"), self._lock():
            try:
                os.rename(folder, gone)
            except FileNotFoundError:
                raise ImageNotFound(name=image_id) from None
            filesystem.sync_directory(self.root)
        shutil.rmtree(gone, ignore_errors=True)

    def _id_to_delete(self, ref: str) -> str:
        """Also a damaged record can be deleted, by its id."""
        if _ID.fullmatch(ref) and (self.root / ref).is_dir():
            return ref
        return self.show(ref).id

    def clean(self) -> int:
        """Remove what killed processes left behind, and broken downloads nobody resumed; returns how many."""
        if not self.root.exists():
            return 0
        with self._lock():
            return self._clean()

    def _clean(self) -> int:
        return incoming.clean(self.root) + partial.clean(self.partials)

    @property
    def partials(self) -> Path:
        return self.root / ".partial"

    def _lock(self) -> AbstractContextManager[None]:
        return locks.lock(self.root / ".lock", timeout=_LOCK_TIMEOUT, what="the image store")


def _only(found: Sequence[Image], ref: str) -> Image:
    if len(found) > 1:
        ids = ", ".join(image.id for image in found)
        raise Conflict(reason=f"several images are meant by {ref}: {ids}", hint="write the whole id")
    return found[0]


def _typed(changes: Mapping[str, Any]) -> dict[str, Any]:
    typed = dict(changes)
    if "properties" in typed:
        typed["properties"] = {str(key): str(value) for key, value in typed["properties"].items()}
    for key in ("min_disk", "min_ram"):
        if key in typed and (not isinstance(typed[key], int) or typed[key] < 0):
            raise InvalidRequest(reason=f"{key} is a number of bytes, not {typed[key]!r}")
    return typed
