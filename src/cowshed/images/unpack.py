"""Compressed wrappers (gzip, xz, zstd) unpacked while they stream in, in bounded pieces.

Only the outermost layer is a wrapper. A stream that ends early, goes on with something else or
grows beyond its bounds is refused; several members or frames after each other are one stream.
"""

from __future__ import annotations

import lzma
from collections.abc import Iterator
from typing import Any, Final, Protocol

from cowshed.errors import ImageRejected
from cowshed.units import GiB, MiB, format_size

MAGICS: Final = {b"\x1f\x8b\x08": "gzip", b"\xfd7zXZ\0": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
MAGIC_LENGTH: Final = max(map(len, MAGICS))

_PIECE: Final = 1 * MiB  # the most that is unpacked in one step
_XZ_MEMORY: Final = 1 * GiB  # xz -9 needs 65 MiB; the format allows 4 GiB
_ZSTD_WINDOW: Final = 128 * MiB  # what `zstd --long` makes; the format allows far more
_ZSTD_STEP: Final = 512  # input bytes a step: one zstd block makes 128 KiB of at least 4 bytes

# gzip cannot do more than 1032:1. Only bytes that are not zero are counted against the ratio, so an
# empty disk of any size is no bomb (zeros cost no space), and what is, never was anybody's disk.
_RATIO: Final = 2000
_RATIO_FREE: Final = 256 * MiB


def wrapper(head: bytes) -> str | None:
    """The kind of wrapper that begins with ``head``, or None."""
    return next((kind for magic, kind in MAGICS.items() if head.startswith(magic)), None)


def _is_skippable(data: bytes, kind: str) -> bool:
    """Is it a zstd frame without content, as parallel packers and seekable files have behind others (RFC 8878, 3.1.2)?"""
    return kind == "zstd" and data[0] & 0xF0 == 0x50 and data[1:4] == b"\x2a\x4d\x18"


class _Decompressor(Protocol):
    """One member: what zlib's and lzma's objects have in common, made so by the adapters below."""

    @property
    def eof(self) -> bool: ...

    @property
    def unused_data(self) -> bytes: ...

    def pieces(self, data: bytes) -> Iterator[bytes]: ...


class Unpacker:
    """Feed it the packed bytes; it gives back the unpacked ones in pieces of at most about a MiB.

    :param kind: what :func:`wrapper` found
    :param limit: bytes the whole may unpack to
    :param image: names the image in errors
    """

    def __init__(self, kind: str, *, limit: int, image: str) -> None:
        self.kind = kind
        self.packed = 0
        self.unpacked = 0
        self._limit = limit
        self._image = image
        self._member: _Decompressor | None = None
        self._between = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """:raises ImageRejected: the data is damaged, or more than the limit"""
        self.packed += len(data)
        data, self._between = self._between + data, b""
        while data:
            if self._member is None:
                if len(data) < MAGIC_LENGTH and any(magic.startswith(data) for magic in MAGICS):
                    self._between = data  # too little to tell what follows
                    return
                if wrapper(data) != self.kind and not (self.packed > len(data) and _is_skippable(data, self.kind)):
                    raise self._refused(f"something else follows the {self.kind} data")
                self._member = _DECOMPRESSORS[self.kind]()
            yield from self._pieces(self._member, data)
            if not self._member.eof:
                return
            data, self._member = self._member.unused_data, None

    def _pieces(self, member: _Decompressor, data: bytes) -> Iterator[bytes]:
        pieces = member.pieces(data)
        while True:
            try:
                piece = next(pieces, None)
            except _errors() as error:
                raise self._refused(f"its {self.kind} data is damaged ({error})") from error
            if piece is None:
                return
            self.unpacked += len(piece)
            if self.unpacked > self._limit:
                raise ImageRejected(
                    image=self._image,
                    reason=f"it unpacks to more than {format_size(self._limit)}",
                    hint="see [images] max_unpacked in the configuration",
                )
            yield piece

    def finish(self) -> None:
        """:raises ImageRejected: the stream has not come to its end"""
        if self._member is not None or self._between or not self.packed:
            raise self._refused(f"its {self.kind} data is cut off")

    def check_ratio(self, written: int) -> None:
        """:param written: bytes that are not zero so far :raises ImageRejected: nothing real unpacks to so much"""
        if written > _RATIO_FREE and written > _RATIO * self.packed:
            raise self._refused(
                f"{format_size(self.packed)} unpack to {format_size(written)}, which no disk image does"
            )

    def _refused(self, reason: str) -> ImageRejected:
        return ImageRejected(image=self._image, reason=reason)


# --- one member of each kind ------------------------------------------------------------------


class _Gzip:
    def __init__(self) -> None:
        self._object: Any = _zlib().decompressobj(31)  # a gzip header and trailer are expected and checked

    @property
    def eof(self) -> bool:
        return bool(self._object.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._object.unused_data)

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while True:
            piece = self._object.decompress(data, _PIECE)
            if piece:
                yield piece
            data = self._object.unconsumed_tail
            if self.eof or not (data or len(piece) == _PIECE):
                return


class _Xz:
    def __init__(self) -> None:
        self._object = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=_XZ_MEMORY)

    @property
    def eof(self) -> bool:
        return self._object.eof

    @property
    def unused_data(self) -> bytes:
        # Between streams there may be zeros, four at a time (the .xz file format, 2.2).
        rest = self._object.unused_data
        padding = len(rest) - len(rest.lstrip(b"\0"))
        return rest[padding:] if padding % 4 == 0 else rest

    def pieces(self, data: bytes) -> Iterator[bytes]:
        while True:
            if piece := self._object.decompress(data, _PIECE):
                yield piece
            data = b""
            if self.eof or self._object.needs_input:
                return


class _Zstd:
    def __init__(self) -> None:
        import zstandard

        self._object: Any = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW).decompressobj()
        self._rest = b""

    @property
    def eof(self) -> bool:
        return bool(self._object.eof)

    @property
    def unused_data(self) -> bytes:
        return bytes(self._object.unused_data) + self._rest

    def pieces(self, data: bytes) -> Iterator[bytes]:
        """Small steps, because its object gives all that the input makes at once."""
        gathered = bytearray()
        offset = 0
        while offset < len(data) and not self.eof:
            gathered += self._object.decompress(data[offset : offset + _ZSTD_STEP])
            offset += _ZSTD_STEP
            if len(gathered) >= _PIECE:
                yield bytes(gathered)
                gathered.clear()
        self._rest = data[offset:]
        if gathered:
            yield bytes(gathered)


_DECOMPRESSORS: Final[dict[str, type[_Gzip | _Xz | _Zstd]]] = {"gzip": _Gzip, "xz": _Xz, "zstd": _Zstd}


def _zlib() -> Any:
    """ISA-L's inflate is about three times as fast as zlib's; without it everything works too."""
    try:
        from isal import isal_zlib
    except ImportError:
        import zlib

        return zlib
    return isal_zlib


def _errors() -> tuple[type[Exception], ...]:
    import zstandard

    return (_zlib().error, lzma.LZMAError, EOFError, zstandard.ZstdError)
