"""Images in Glance: the image service contract on its API, version 2."""

from __future__ import annotations

import builtins
import re
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from cowshed import log
from cowshed.config import GlanceSection, ImagesSection
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.imaging import ImageService
from cowshed.errors import Conflict, FetchFailed, ImageNotFound, InvalidRequest, NameTaken, UnsupportedOperation
from cowshed.images.glance import record, stores, upload
from cowshed.images.glance.client import Client
from cowshed.images.glance.signature import verifier
from cowshed.images.glance.stream import CHUNK, Stream
from cowshed.images.intake import Digest, SparseWriter
from cowshed.model.image import Image, ImageStatus, Location
from cowshed.tools import checksum, filesystem

_log = log.logger(__name__)

_ID: Final = re.compile(r"[0-9a-fA-F]{8}(-?[0-9a-fA-F]{4}){3}-?[0-9a-fA-F]{12}")
_PREFIX: Final = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,27}")
_PAGE: Final = 200
_CHANGEABLE: Final = ("name", "properties", "min_disk", "min_ram")
_PATCH: Final = {"Content-Type": "application/openstack-images-v2.1-json-patch"}


class GlanceService(ImageService):
    """The images of one project. Nothing is asked before the first call; threads may share it."""

    def __init__(self, section: GlanceSection, images: ImagesSection | None = None) -> None:
        self.section = images or ImagesSection()
        self.client = Client(section)

    # --- find ---------------------------------------------------------------------------------

    def show(self, ref: str) -> Image:
        """The image with this id, name, or beginning of an id (8 characters or more).

        :raises ImageNotFound: also where another project does not show it
        :raises UnsupportedOperation: it is of a format that is not known here
        """
        if _ID.fullmatch(ref):
            return self._image(self._record(ref))
        images = self.list(name=ref)
        if not images and _PREFIX.fullmatch(ref):
            images = [image for image in self.list() if image.id.startswith(ref)]
        if not images:
            raise ImageNotFound(name=ref, hint="`cowshed image ls` shows what there is")
        if len(images) > 1:
            ids = ", ".join(image.id for image in images)
            raise Conflict(reason=f"several images are meant by {ref}: {ids}", hint="write the whole id")
        return images[0]

    def list(self, *, name: str | None = None) -> Sequence[Image]:
        """Active ones. Those of formats that cannot be used here are left out."""
        found = []
        for entry in self._pages({"status": "active", **({"name": name} if name is not None else {})}):
            try:
                found.append(self._image(entry))
            except UnsupportedOperation as error:
                _log.debug("%s", error)
        return found

    def _pages(self, query: Mapping[str, str]) -> builtins.list[dict[str, Any]]:
        action = "list images"
        found: builtins.list[dict[str, Any]] = []
        path: str | None = "/images"
        arguments: dict[str, Any] = {
            "params": {**query, "sort_key": "created_at", "sort_dir": "asc", "limit": str(_PAGE)}
        }
        while path:
            body = self.client.json(
                self.client.call("GET", path, action=action, subject="its list", **arguments), action
            )
            entries = body.get("images")
            if not isinstance(entries, builtins.list):
                raise self.client.failed(action, "its answer has no list")
            found += entries
            following = body.get("next") if entries else None
            path = str(following).removeprefix("/v2") if following else None
            arguments = {}
        return found

    def _record(self, image_id: str) -> dict[str, Any]:
        action = "tell about an image"
        response = self.client.call("GET", f"/images/{image_id}", action=action, subject=f"image {image_id}")
        return dict(self.client.json(response, action))

    def _image(self, entry: Mapping[str, Any]) -> Image:
        try:
            return record.to_image(entry)
        except ValueError as error:
            raise self.client.failed("tell about an image", str(error)) from error

    # --- read ---------------------------------------------------------------------------------

    def open(self, image: Image, *, offset: int = 0) -> BinaryIO:
        """The stored bytes, however often the connection breaks. Their signature is checked on the way where the
        configuration asks for it (from byte 0 on only); the digest is for whoever has seen all of them.

        :raises ImageRejected: the signature is missing, not trusted or not valid
        """
        check = verifier(image, self.client.section) if offset == 0 else None
        return cast(BinaryIO, Stream(self.client, image, offset, verifier=check))

    def open_range(self, image: Image, start: int, length: int) -> BinaryIO:
        """``length`` bytes from ``start`` on, by a range request."""
        return cast(BinaryIO, Stream(self.client, image, start, start + length))

    def download(self, image: Image, target: Path, *, progress: Progress = SILENT) -> None:
        algorithm = image.os_hash_algo if image.os_hash_algo in checksum.LENGTHS else "sha256"
        digest = Digest(algorithm)
        try:
            with self.open(image) as stream, filesystem.publish(target) as publication:
                filesystem.check_space(target.parent, image.size)
                progress.phase("download", image.size or None)
                writer = SparseWriter(publication.fd)
                with filesystem.errors_of(target, "write"):
                    while data := stream.read(CHUNK):
                        progress.check()
                        digest.update(data)
                        writer.write(data)
                        progress.update(len(data))
                    writer.finish()
                if image.size and writer.position != image.size:
                    raise FetchFailed(
                        url=f"image {image.name or image.id}", reason=f"{writer.position} of {image.size} bytes came"
                    )
                if image.os_hash_value and algorithm == image.os_hash_algo:
                    subject = f"image {image.name or image.id}"
                    checksum.check(subject, algorithm, image.os_hash_value, digest.result())
        finally:
            digest.close()

    def verify(self, image: Image, *, progress: Progress = SILENT) -> None:
        """Read all stored bytes again. :raises DigestMismatch: :raises InvalidRequest: there is no digest to check"""
        if image.os_hash_algo not in checksum.LENGTHS:
            raise InvalidRequest(reason=f"image {image.name or image.id} has no digest that is known here")
        digest = Digest(image.os_hash_algo)
        try:
            with self.open(image) as stream:
                progress.phase("verify", image.size or None)
                while data := stream.read(CHUNK):
                    progress.check()
                    digest.update(data)
                    progress.update(len(data))
            subject = f"image {image.name or image.id}"
            checksum.check(subject, image.os_hash_algo, image.os_hash_value, digest.result())
        finally:
            digest.close()

    # --- write --------------------------------------------------------------------------------

    def create(self, image: Image) -> Image:
        """A record without bytes; an empty id is filled in. :raises NameTaken: the id is in use"""
        image = replace(image, id=image.id or str(uuid.uuid4()))
        action = f"make a record of image {image.name or image.id}"
        body = record.of_image(image)
        try:
            # The id is ours: when a second attempt finds it taken, the first one took it and its answer was lost.
            response = self.client.call("POST", "/images", action=action, subject="images", again=(409,), json=body)
        except Conflict as error:
            raise NameTaken(kind="image", name=image.id) from error
        return self._image(
            self._record(image.id) if response.status_code == 409 else self.client.json(response, action)
        )

    def reserve(self, image: Image) -> Image:
        return self.create(image)

    def reserved(self, image_id: str) -> Image:
        found = self._record(image_id)
        upload.refuse_taken(found, image_id)
        return self._image(found)

    def release(self, image_id: str) -> None:
        with suppress(ImageNotFound):
            if self._record(image_id).get("status") != str(ImageStatus.ACTIVE):
                self.delete(image_id)

    def upload(self, image: Image, source: BinaryIO, *, progress: Progress = SILENT) -> Image:
        """Fill the record ``image.id`` if there is one without bytes, else make one.

        A new image's name must be free (Glance itself would not mind).

        :raises DigestMismatch: :raises DataCorrupt: the service has stored something else
        """
        image, head = upload.inspect(image, source, self.section)
        found = self._waiting(image)
        if found is None:
            if image.name and self.list(name=image.name):
                raise NameTaken(kind="image", name=image.name)
            image = replace(self.create(image), size=image.size)
        try:
            job = upload.Upload(self.client, image, source, head, progress)
            digest = job.run()
            stored = self._image(self._record(image.id))
            job.check(stored, digest)
        except BaseException:
            if found is None:
                upload.forget(self.client, image.id)
            raise
        if stored.status != ImageStatus.ACTIVE:
            raise self.client.failed(f"store image {image.name or image.id}", f"it is {stored.status} afterwards")
        return stored

    def _waiting(self, image: Image) -> dict[str, Any] | None:
        """The record that waits for these bytes, made to say their format. :raises NameTaken: it has bytes already"""
        if not image.id:
            return None
        try:
            found = self._record(image.id)
        except ImageNotFound:
            return None
        upload.refuse_taken(found, image.id)
        wanted = {"disk_format": str(image.disk_format), "container_format": record.container_format(image)}
        changes = [
            {"op": "replace" if key in found else "add", "path": f"/{key}", "value": value}
            for key, value in wanted.items()
            if found.get(key) != value
        ]
        if changes:
            self._patch(image.id, changes)
        return found

    def update(self, image_id: str, changes: Mapping[str, Any]) -> Image:
        if unknown := [key for key in changes if key not in _CHANGEABLE]:
            raise InvalidRequest(
                reason=f"{', '.join(unknown)} of an image cannot be changed", hint=f"{', '.join(_CHANGEABLE)} can"
            )
        found = self._record(self._id(image_id))
        wanted: dict[str, Any] = {}
        for key, value in changes.items():
            if key == "properties":
                wanted |= dict.fromkeys(record.properties(found)) | record.checked(value)
            elif key == "name":
                wanted["name"] = value
            elif isinstance(value, int) and value >= 0:
                wanted |= record.minimum(key, value)
            else:
                raise InvalidRequest(reason=f"{key} is a number of bytes, not {value!r}")
        operations = [one for key, value in wanted.items() if (one := _operation(found, key, value))]
        return self._image(self._patch(found["id"], operations) if operations else found)

    def _patch(self, image_id: str, operations: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
        action = "change an image"
        response = self.client.call(
            "PATCH", f"/images/{image_id}", action=action, subject=f"image {image_id}", json=operations, headers=_PATCH
        )
        return self.client.json(response, action)

    def delete(self, image_id: str) -> None:
        """:raises Conflict: something stands on it :raises PermissionDenied: it is protected, or not ours"""
        image_id = self._id(image_id)
        self.client.call("DELETE", f"/images/{image_id}", action="delete", subject=f"image {image_id}", again=(404,))

    def _id(self, ref: str) -> str:
        return ref if _ID.fullmatch(ref) else self.show(ref).id

    # --- places -------------------------------------------------------------------------------

    def locations(self, image: Image) -> Sequence[Location]:
        """As far as this Glance shows them."""
        return stores.locations(self._record(image.id))

    def add_location(self, image: Image, location: Location, *, progress: Progress = SILENT) -> Image:
        """Let the bytes at ``location`` be those of the record of ``image``, which becomes active.

        :raises ImageNotFound: the record is gone :raises NameTaken: it has its bytes already
        :raises PermissionDenied: this Glance does not allow it
        :raises DeadlineExceeded: it takes longer than is configured
        """
        if self._waiting(image) is None:
            raise ImageNotFound(name=image.name or image.id)
        return self._image(stores.add_location(self.client, image.id, location, self._patch, progress))

    def stores(self) -> Mapping[str, Any]:
        """Names of the stores of this Glance -> what it says of them; empty where it has just one."""
        return stores.known(self.client)

    def copy_to_store(self, image: Image, store: str, *, progress: Progress = SILENT) -> Image:
        """Have the bytes in ``store`` as well; they stay where they are. It is there already: success.

        :raises InvalidRequest: there is no such store
        :raises DeadlineExceeded: :raises ImageServiceFailed: the copy failed
        """
        return self._image(stores.copy(self.client, image, store, progress))

    def close(self) -> None:
        self.client.close()


def _operation(found: Mapping[str, Any], key: str, value: Any) -> dict[str, Any] | None:
    if value is None:
        return {"op": "remove", "path": f"/{_escape(key)}"} if key in found else None
    if key in found:
        return {"op": "replace", "path": f"/{_escape(key)}", "value": value} if found[key] != value else None
    return {"op": "add", "path": f"/{_escape(key)}", "value": value}


def _escape(key: str) -> str:
    """As a JSON pointer (RFC 6901)."""
    return key.replace("~", "~0").replace("/", "~1")
