"""The stored bytes of an image as a stream that goes on where a broken connection left it.

An image's bytes never change, so a continuation at the right position is enough: the range that comes must begin
where it was asked to, be of an image as long as the record says, and end with its last byte.
"""

from __future__ import annotations

import io
import re
from typing import Any, Final

from cowshed import clock
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.errors import Conflict, FetchFailed, UnsupportedOperation
from cowshed.images.attempts import Transient
from cowshed.images.glance.client import Client
from cowshed.images.glance.signature import Verifier
from cowshed.images.transport import LOW_SPEED
from cowshed.model.image import Image

CHUNK: Final = 1 << 20
_MUCH: Final = 64 << 20  # bytes that make earlier trouble forgotten
_NO_RANGES: Final = (400, 501)
_RANGE: Final = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class Stream(io.RawIOBase):
    """Bytes of ``image`` from ``offset`` up to ``end`` (None: the last).

    :raises ImageNotFound: :raises PermissionDenied: :raises ImageServiceFailed: when it is opened, or at any read
    """

    def __init__(
        self,
        client: Client,
        image: Image,
        offset: int = 0,
        end: int | None = None,
        *,
        verifier: Verifier | None = None,
        progress: Progress = SILENT,
    ) -> None:
        super().__init__()
        self._client = client
        self._image = image
        self._name = image.name or image.id
        self.position = offset
        self._whole = end is None
        self._end = min(end, image.size) if end is not None and image.size else (end or image.size or None)
        self._verifier = verifier
        self._attempts = client.attempts(f"send image {self._name}", progress)
        self._renewed = offset
        self._waited, self._came = 0.0, 0
        self._ranges = True
        self._endpoint = ""
        self._response: Any = None
        self._connect()

    # --- read ---------------------------------------------------------------------------------

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        """At most ``size`` bytes, and fewer only at the end. :raises FetchFailed:"""
        if size is None or size < 0:
            return self.readall()
        pieces, wanted = [], size
        while wanted and (data := self._some(wanted)):
            pieces.append(data)
            wanted -= len(data)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def readall(self) -> bytes:
        return b"".join(iter(lambda: self._some(CHUNK), b""))

    def readinto(self, buffer: Any) -> int:
        data = self._some(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def _some(self, size: int) -> bytes:
        while True:
            if self._end is not None and self.position >= self._end:
                return self._finished()
            try:
                data = self._receive(size)
            except Transient as error:
                self._disconnect()
                self._client.avoid(self._endpoint)
                if self.position - self._renewed >= _MUCH:
                    self._attempts.renew()
                    self._renewed = self.position
                self._attempts.again(error)
                self._connect()
                continue
            if not data:
                return self._finished()
            self._take(data)
            return data

    def _take(self, data: bytes) -> None:
        self.position += len(data)
        if self._end is not None and self.position > self._end:
            raise self._broken(f"it goes on after {self._end} bytes")
        if self._verifier:
            self._verifier.update(data)
            if self.position == self._end:
                self._verify()

    def _receive(self, size: int) -> bytes:
        """:raises Transient: nothing more comes on this connection"""
        # Of a whole body one byte too many would be seen.
        limit = size if self._end is None else min(size, self._end - self.position + self._whole)
        started = clock.current().monotonic()
        try:
            data: bytes = self._response.raw.read(limit, decode_content=False)
        except Exception as error:
            if not _of_network(error):
                raise
            raise Transient(f"the connection broke: {' '.join(str(error).split())[:200]}") from error
        self._watch(len(data), clock.current().monotonic() - started)
        if not data and self._end is not None:
            raise Transient(f"the image service sent {self.position} of {self._end} bytes")
        return data

    def _watch(self, came: int, seconds: float) -> None:
        """A server that trickles is broken, too."""
        self._waited += seconds
        self._came += came
        if self._waited >= self._client.section.read_timeout:
            if self._came < LOW_SPEED * self._waited:
                raise Transient(f"only {self._came} bytes came in {self._waited:.0f} s")
            self._waited, self._came = 0.0, 0

    def _finished(self) -> bytes:
        self._disconnect()
        self._verify()
        return b""

    def _verify(self) -> None:
        if self._verifier:
            verifier, self._verifier = self._verifier, None
            verifier.finish()

    # --- connect ------------------------------------------------------------------------------

    def _connect(self) -> None:
        while True:
            try:
                self._response = self._ask()
                self._waited, self._came = 0.0, 0
                return
            except Transient as error:
                self._attempts.again(error)

    def _ask(self) -> Any:
        action = f"send image {self._name}"
        headers = {"Accept": "application/octet-stream", "Accept-Encoding": "identity"}
        if self._ranges and (self.position > 0 or not self._whole):
            last = "" if self._end is None or self._whole else str(self._end - 1)
            headers["Range"] = f"bytes={self.position}-{last}"
        if self._ranges and self.position and self._end == self.position:
            headers["Range"] = "bytes=0-0"  # nothing is left; whether the image is there is still asked
        self._endpoint = self._client.url
        response = self._client.once(
            "GET", f"/images/{self._image.id}/file", action=action, headers=headers, stream=True, log=False
        )
        if "Range" in headers and not self._whole and response.status_code in (200, *_NO_RANGES):
            response.close()
            raise UnsupportedOperation(
                subject=f"image {self._name}",
                operation="be read in parts",
                reason="the place where it lies sends all of it",
            )
        if "Range" in headers and response.status_code in _NO_RANGES:
            response.close()  # the store of this image sends only all of it (Ceph's, for one)
            self._ranges = False
            return self._ask()
        try:
            self._client.judge(response, action=action, subject=f"image {self._name}", repeatable=True)
            self._check(response)
        except BaseException:
            response.close()
            raise
        return response

    def _check(self, response: Any) -> None:
        """Is it the part that was asked for?"""
        status = response.status_code
        if status == 204:
            raise Conflict(reason=f"image {self._name} has no bytes ({self._image.status})")
        encoding = response.headers.get("Content-Encoding", "identity").lower()
        if encoding != "identity":
            raise self._broken(f"it comes encoded as {encoding}")
        if self._end is not None and self.position >= self._end:
            return
        if status == 206:
            self._check_range(response)
        elif status == 200:
            announced = response.headers.get("Content-Length", "")
            if self._image.size and announced.isdecimal() and int(announced) != self._image.size:
                raise self._broken(f"{announced} bytes are announced, its record says {self._image.size}")
            self._skip(response)
        else:
            raise self._broken(f"the image service answers {status}")

    def _check_range(self, response: Any) -> None:
        text = response.headers.get("Content-Range", "")
        match = _RANGE.fullmatch(text)
        if not match or int(match[1]) != self.position:
            raise self._broken(f"it was asked for the bytes from {self.position} on, and sends {text or 'others'}")
        if self._image.size and int(match[3]) != self._image.size:
            raise self._broken(f"it has {match[3]} bytes, its record says {self._image.size}")

    def _skip(self, response: Any) -> None:
        """A server without ranges sends all: what we have already is read past."""
        left = self.position
        try:
            while left and (data := response.raw.read(min(CHUNK, left), decode_content=False)):
                left -= len(data)
        except Exception as error:
            if not _of_network(error):
                raise
            raise Transient(f"the connection broke: {error}") from error
        if left:
            raise Transient(f"the image service sent {self.position - left} of {self.position} bytes")

    def _broken(self, reason: str) -> FetchFailed:
        return FetchFailed(url=f"image {self._name} at {self._client.url}", reason=reason, hint="try again")

    def _disconnect(self) -> None:
        if self._response is not None:
            self._response.close()
            self._response = None

    def close(self) -> None:
        self._disconnect()
        if self._verifier:
            self._verifier.close()
            self._verifier = None
        super().close()


def _of_network(error: Exception) -> bool:
    from http.client import HTTPException

    from urllib3.exceptions import HTTPError

    return isinstance(error, HTTPError | HTTPException | OSError)
