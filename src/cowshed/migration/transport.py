"""How two hosts talk when an instance moves: lines of JSON, and between them the content of disks.

Whatever carries the bytes both ways will do: ssh with ``cowshed serve`` behind it, or a pair of pipes. An error
of one side is the same error on the other.

The content of a disk is a row of frames: 8 bytes offset, 4 bytes length (big endian), the bytes. Holes are not
sent. A frame of length 0 carries the size at its offset, and is followed by the SHA-256 of all before it.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import struct
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any, Final

from cowshed import errors
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.errors import CowshedError, DataCorrupt, DeadlineExceeded, DigestMismatch, InternalError
from cowshed.tools import filesystem, sparse

SILENCE: Final = 900.0  # seconds without a byte after which the other side is given up: it may be fetching an image
LONGEST: Final = 64 << 20  # bytes of one line
_FRAME: Final = struct.Struct(">QI")
_CHUNK: Final = 1 << 20


class Channel:
    """One of the two ends of a move, over two descriptors.

    Every call may raise OSError or EOFError: the other side is gone.
    """

    def __init__(self, reader: int, writer: int, *, silence: float = SILENCE) -> None:
        self._reader = reader
        self._writer = writer
        self._silence = silence
        self._buffer = bytearray()
        os.set_blocking(writer, False)  # a piece larger than what the pipe takes would wait for a dead reader for ever

    # --- lines --------------------------------------------------------------------------------

    def say(self, message: Mapping[str, Any]) -> None:
        self._write(json.dumps(message).encode() + b"\n")

    def fail(self, error: CowshedError) -> None:
        """Let the other side raise ``error``."""
        fields = {name: value if isinstance(value, int | float) else str(value) for name, value in error.fields.items()}
        self.say({"error": error.code, "fields": fields, "hint": error.hint, "text": str(error)})

    def hear(self) -> dict[str, Any]:
        """:raises CowshedError: what it says went wrong there"""
        while b"\n" not in self._buffer:
            if len(self._buffer) > LONGEST:
                raise DataCorrupt(path="what the other host says", reason="a line without an end")
            self._buffer += self._more()
        line = self._taken(self._buffer.index(b"\n") + 1)
        try:
            message = dict(json.loads(line))
        except (ValueError, TypeError) as error:
            raise DataCorrupt(path="what the other host says", reason=f"{line[:200]!r} is not ours") from error
        if "error" in message:
            raise _raised(message)
        return message

    def ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        """What the other side answers to ``call``."""
        self.say({"call": call, **arguments})
        return self.hear()

    # --- content ------------------------------------------------------------------------------

    def send(self, fd: int, progress: Progress = SILENT) -> None:
        """The data extents of a file. :raises CowshedError: what the other side said before it hung up"""
        try:
            self._send(fd, progress)
        except BrokenPipeError:
            self.hear()
            raise

    def _send(self, fd: int, progress: Progress) -> None:
        digest = hashlib.sha256()
        for offset, data in _pieces(fd):
            progress.check()
            head = _FRAME.pack(offset, len(data))
            digest.update(head + data)
            self._write(head)
            self._write(data)
            progress.update(len(data))
        head = _FRAME.pack(os.fstat(fd).st_size, 0)
        digest.update(head)
        self._write(head + digest.digest())

    def receive(self, fd: int, most: int, progress: Progress = SILENT) -> None:
        """Into an empty file of at most ``most`` bytes. :raises DigestMismatch: :raises DataCorrupt:"""
        digest = hashlib.sha256()
        while True:
            head = self._exactly(_FRAME.size)
            digest.update(head)
            offset, length = _FRAME.unpack(head)
            if offset + length > most or length > _CHUNK:
                raise DataCorrupt(path="what the other host sends", reason=f"{offset + length} bytes, of {most}")
            if not length:
                break
            data = self._exactly(length)
            digest.update(data)
            filesystem.write_all(fd, data, offset)
            progress.update(length)
        expected, actual = self._exactly(digest.digest_size).hex(), digest.hexdigest()
        if expected != actual:
            raise DigestMismatch(subject="what was received", algorithm="sha256", expected=expected, actual=actual)
        os.ftruncate(fd, offset)
        os.fsync(fd)

    # --- bytes --------------------------------------------------------------------------------

    def _write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            self._wait(self._writer, select.POLLOUT)
            with suppress(BlockingIOError):
                view = view[os.write(self._writer, view) :]

    def _exactly(self, count: int) -> bytes:
        while len(self._buffer) < count:
            self._buffer += self._more()
        return self._taken(count)

    def _taken(self, count: int) -> bytes:
        data = bytes(self._buffer[:count])
        del self._buffer[:count]
        return data

    def _more(self) -> bytes:
        self._wait(self._reader, select.POLLIN)
        data = os.read(self._reader, _CHUNK)
        if not data:
            raise EOFError("the other host has hung up")
        return data

    def _wait(self, fd: int, event: int) -> None:
        poll = select.poll()
        poll.register(fd, event)
        if not poll.poll(self._silence * 1000):
            raise DeadlineExceeded(what="a word from the other host", seconds=self._silence)


def _pieces(fd: int) -> Iterator[tuple[int, bytes]]:
    for offset, length in sparse.extents(fd):
        end = offset + length
        while offset < end:
            data = os.pread(fd, min(_CHUNK, end - offset), offset)
            if not data:
                return  # it was cut meanwhile: the digest will not tell, the size will
            yield offset, data
            offset += len(data)


def _raised(message: Mapping[str, Any]) -> CowshedError:
    """The error that the other side had, of the same class where it is one of ours."""
    for kind in vars(errors).values():
        if isinstance(kind, type) and issubclass(kind, CowshedError) and kind.code == message["error"]:
            fields, hint = message.get("fields", {}), message.get("hint")
            try:
                if kind is errors.HostUnsuitable:
                    fields = {**fields, "host": "the destination"}
                    hint = f"there: {hint}" if str(hint).startswith("cowshed ") else hint  # a command for that host
                return kind(hint=hint, **fields)
            except (TypeError, ValueError, KeyError):
                break
    return InternalError(reason=f"the other host says: {message.get('text', message['error'])}")
