"""Compressed wrappers: whatever the pieces, the same bytes; anything but a whole stream is refused."""

from __future__ import annotations

import gzip
import lzma
import random
import zlib
from collections.abc import Callable

import pytest
import zstandard

from cowshed.errors import ImageRejected
from cowshed.images import unpack

DATA = random.Random(1).randbytes(300_000) + bytes(5_000_000) + b"text that packs well" * 20_000
PACK: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "xz": lambda data: lzma.compress(data, preset=1),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}


def unpacked(kind: str, packed: bytes, *, step: int = 70_000, limit: int = 1 << 40) -> bytes:
    unpacker = unpack.Unpacker(kind, limit=limit, image="test")
    pieces = [piece for at in range(0, len(packed), step) for piece in unpacker.feed(packed[at : at + step])]
    unpacker.finish()
    assert max(map(len, pieces), default=0) <= 16 << 20
    return b"".join(pieces)


@pytest.fixture(params=list(PACK))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_the_kind_is_told_by_its_first_bytes(kind: str) -> None:
    assert unpack.wrapper(PACK[kind](b"x")[: unpack.MAGIC_LENGTH]) == kind


@pytest.mark.parametrize("head", [b"", b"\x1f\x8b", b"QFI\xfb\0\0\0\3", b"\x1f\x9d\x90", b"PK\3\4"])
def test_other_files_are_no_wrappers(head: bytes) -> None:
    assert unpack.wrapper(head) is None


@pytest.mark.parametrize("step", [997, 70_000, 1 << 30])
def test_the_bytes_do_not_depend_on_the_pieces(kind: str, step: int) -> None:
    assert unpacked(kind, PACK[kind](DATA), step=step) == DATA


@pytest.mark.parametrize("step", [1, 7, 1 << 20])
def test_several_members_are_one_stream(kind: str, step: int) -> None:
    assert unpacked(kind, PACK[kind](b"one") + PACK[kind](b"") + PACK[kind](b"two"), step=step) == b"onetwo"


def test_frames_without_content_are_skipped() -> None:
    skippable = b"\x5e\x2a\x4d\x18\x04\0\0\0seek"
    assert unpacked("zstd", PACK["zstd"](b"one") + skippable) == b"one"


def test_padding_between_xz_streams_is_part_of_the_format() -> None:
    assert unpacked("xz", PACK["xz"](b"one") + bytes(8) + PACK["xz"](b"two")) == b"onetwo"


@pytest.mark.parametrize("cut", [1, 4, 100, 200_000])
def test_a_cut_stream_is_refused(kind: str, cut: int) -> None:
    with pytest.raises(ImageRejected, match="cut off"):
        unpacked(kind, PACK[kind](DATA)[:-cut])


def test_the_start_of_another_member_is_not_enough(kind: str) -> None:
    with pytest.raises(ImageRejected, match="cut off"):
        unpacked(kind, PACK[kind](b"one") + PACK[kind](b"two")[:3])


@pytest.mark.parametrize("tail", [b"\1", b"garbage", b"\x1f\x8b\x09" + bytes(20)])
def test_something_behind_the_stream_is_refused(kind: str, tail: bytes) -> None:
    with pytest.raises(ImageRejected):
        unpacked(kind, PACK[kind](b"one") + tail)


def test_damage_is_found(kind: str) -> None:
    packed = bytearray(PACK[kind](DATA))
    packed[150_000] ^= 0xFF
    with pytest.raises(ImageRejected, match="damaged"):
        unpacked(kind, bytes(packed))


def test_the_limit_holds(kind: str) -> None:
    with pytest.raises(ImageRejected, match="more than 1 MiB"):
        unpacked(kind, PACK[kind](DATA), limit=1 << 20)


def test_an_xz_file_that_wants_too_much_memory_is_refused() -> None:
    packed = bytearray(PACK["xz"](b"x" * 1000))
    # The LZMA2 filter's dictionary size in the block header (the .xz file format, 5.3.1), with its CRC made anew.
    header = packed[12 : 12 + (packed[12] + 1) * 4]
    at = header.index(b"\x21\x01")
    header[at + 2] = 40  # 4 GiB - 1
    header[-4:] = zlib.crc32(header[:-4]).to_bytes(4, "little")
    packed[12 : 12 + len(header)] = header
    with pytest.raises(ImageRejected, match="damaged"):
        unpacked("xz", bytes(packed))


def test_a_ratio_that_no_image_has_is_refused_but_zeros_are_free() -> None:
    unpacker = unpack.Unpacker("gzip", limit=1 << 40, image="test")
    list(unpacker.feed(gzip.compress(b"x")))
    unpacker.check_ratio(written=200 << 20)
    with pytest.raises(ImageRejected, match="no disk image does"):
        unpacker.check_ratio(written=300 << 20)
