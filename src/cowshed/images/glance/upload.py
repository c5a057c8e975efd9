"""Bytes into Glance: streamed once, judged before, hashed on the way, compared afterwards."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, BinaryIO, Final

from cowshed import log
from cowshed.config import ImagesSection
from cowshed.contract.callbacks import Progress
from cowshed.errors import CowshedError, DataCorrupt, ImageRejected, NameTaken
from cowshed.images.attempts import Transient
from cowshed.images.glance.client import Client
from cowshed.images.intake import CHUNK, OPAQUE, Digest, allowed, disk_format
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image
from cowshed.tools import checksum
from cowshed.tools import format as formats

_log = log.logger(__name__)

_ALGORITHM: Final = "sha512"  # Glance's default
_LASTS: Final = 300.0  # seconds a token must be good for when a transfer begins


def inspect(image: Image, source: BinaryIO, section: ImagesSection) -> tuple[Image, bytes]:
    """The record completed by what the bytes are, and the first bytes where they had to be taken from the stream.

    A file is inspected like every image. Of a stream only the beginning can be judged here; whoever makes a
    disk of the image inspects all of it.

    :raises ImageRejected: they are not what the record says, or unsafe
    """
    if image.disk_format in OPAQUE:
        return image, b""
    declared = disk_format(image.disk_format)
    formats_in = (
        tuple({*allowed(section), DiskFormat.AMI, DiskFormat.RAW})
        if image.disk_format == DiskFormat.AMI
        else allowed(section)
    )
    name = image.name or image.id
    fd = _regular(source)
    if fd is not None and source.tell() == 0:
        found = formats.inspect(
            fd, image=name, declared=declared, allowed=formats_in, max_virtual_size=section.max_virtual_size
        )
        source.seek(0, io.SEEK_END)  # the inspection has moved the descriptor's position, behind a buffer's back
        source.seek(0)
        return replace(image, virtual_size=found.virtual_size), b""
    head = b""
    while len(head) < formats.HEAD and (more := source.read(formats.HEAD - len(head))):
        head += more
    if not head:
        raise ImageRejected(image=name, reason="it is empty")
    formats.look(head, declared=declared, allowed=formats_in, image=name)
    if source.seekable():
        source.seek(-len(head), io.SEEK_CUR)
        head = b""
    return image, head


def _regular(source: BinaryIO) -> int | None:
    try:
        fd = source.fileno()
    except (OSError, AttributeError):
        return None
    return fd if stat.S_ISREG(os.fstat(fd).st_mode) else None


class Upload:
    """One image's bytes on their way."""

    def __init__(self, client: Client, image: Image, source: BinaryIO, head: bytes, progress: Progress) -> None:
        self._client = client
        self._image = image
        self._name = image.name or image.id
        self._source = source
        self._head = head
        self._progress = progress
        self._start = source.tell() if source.seekable() else None
        self._length = self._remaining()
        self.sent = 0
        self._digest: Digest | None = None

    def _remaining(self) -> int | None:
        if self._start is None:
            return None
        end = self._source.seek(0, io.SEEK_END)
        self._source.seek(self._start)
        return end - self._start

    def run(self) -> str:
        """Send everything; the digest (sha512) of what was sent. What a service keeps of a failed one is its own matter.

        :raises DataCorrupt: the source changes meanwhile
        """
        action = f"store image {self._name}"
        attempts = self._client.attempts(action, self._progress)
        renewed = False
        while True:
            self._rewind()
            try:
                with self._client.explained(action):
                    if not self._client.token_lasts(_LASTS):
                        self._client.renew_token()
                response = self._client.once("PUT", f"/images/{self._image.id}/file", action=action, **self._request())
                if response.status_code == 401 and not renewed and self._again():
                    response.close()
                    renewed = True
                    self._client.renew_token()
                    continue
                self._client.judge(
                    response, action=action, subject=f"image {self._name}", repeatable=self._start is not None
                )
                return self._result()
            except Transient as error:
                if not self._again():
                    raise self._client.failed(action, f"{error}, and the source cannot be read again") from error
                attempts.again(error)
                if found := self._arrived(action, error):
                    return found
            finally:
                if self._digest:
                    self._digest.close()

    def _arrived(self, action: str, error: Transient) -> str:
        """The digest if the service has it all although its answer was lost; the record is ready for more otherwise."""
        response = self._client.call(
            "GET", f"/images/{self._image.id}", action=f"store image {self._name}", subject=f"image {self._name}"
        )
        record = self._client.json(response, "tell about an image")
        if record.get("status") == "active" and record.get("size") == self.sent == (self._length or self.sent):
            return self._result()
        if record.get("status") not in ("queued", "active"):
            raise self._client.failed(action, f"{error}; the image is {record.get('status')} afterwards") from error
        return ""

    def _again(self) -> bool:
        """Can it be sent once more?"""
        return self._start is not None or self.sent == 0

    def _request(self) -> dict[str, Any]:
        headers = {"Content-Type": "application/octet-stream"}
        if self._client.section.store:
            headers["X-Image-Meta-Store"] = self._client.section.store
        body: Any = _Sized(self._chunks(), self._length) if self._length else self._chunks()
        # Sent twice by keystoneauth it would be empty the second time.
        return {"data": body, "headers": headers, "allow_reauth": False, "log": False}

    def _rewind(self) -> None:
        if self._start is not None:
            self._source.seek(self._start)
        self.sent = 0
        self._digest = Digest(_ALGORITHM)
        self._progress.phase("upload", self._length or self._image.size or None)

    def _chunks(self) -> Iterator[bytes]:
        assert self._digest
        data = self._head or self._source.read(CHUNK)
        while data:
            self._progress.check()
            if self._length is not None and self.sent + len(data) > self._length:
                raise DataCorrupt(path=f"the source of image {self._name}", reason="it grows while it is read")
            self._digest.update(data)
            self.sent += len(data)
            yield data
            self._progress.update(len(data))
            data = self._source.read(CHUNK)
        if self._length is not None and self.sent < self._length:
            raise DataCorrupt(path=f"the source of image {self._name}", reason="it became shorter while it was read")

    def _result(self) -> str:
        assert self._digest
        return self._digest.result()

    def check(self, stored: Image, digest: str) -> None:
        """Is what the service has what was sent? :raises DigestMismatch: :raises DataCorrupt:"""
        if stored.size != self.sent:
            raise DataCorrupt(
                path=f"image {self._name} in the image service", reason=f"it has {stored.size} of {self.sent} bytes"
            )
        algorithm = stored.os_hash_algo
        if algorithm == _ALGORITHM:
            checksum.check(f"image {self._name}", algorithm, digest, stored.os_hash_value)
        elif algorithm in checksum.LENGTHS and self._start is not None:
            checksum.check(f"image {self._name}", algorithm, self._hash_again(algorithm), stored.os_hash_value)

    def _hash_again(self, algorithm: str) -> str:
        assert self._start is not None
        self._source.seek(self._start)
        digest = Digest(algorithm)
        try:
            while data := self._source.read(CHUNK):
                digest.update(data)
            return digest.result()
        finally:
            digest.close()


class _Sized:
    """An iterator with a length, so that it is sent with Content-Length and by our chunks."""

    def __init__(self, chunks: Iterator[bytes], length: int) -> None:
        self._chunks = chunks
        self._length = length

    def __iter__(self) -> Iterator[bytes]:
        return self._chunks

    def __len__(self) -> int:
        return self._length


def forget(client: Client, image_id: str) -> None:
    """Delete a record of ours after a failure; another failure is not worth hiding the first."""
    try:
        client.call("DELETE", f"/images/{image_id}", action="forget an image", subject=f"image {image_id}")
    except CowshedError as error:
        _log.warning("image %s is left in the image service: %s", image_id, error)


def refuse_taken(record: dict[str, Any], name: str) -> None:
    """:raises NameTaken: the record has bytes already"""
    if record.get("status") != "queued":
        raise NameTaken(kind="image", name=name)
