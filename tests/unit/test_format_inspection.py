"""Inspection: exactly one format, the declared one, self-contained, bounded; and valid images work."""

from __future__ import annotations

import os
import random
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from cowshed.errors import ImageRejected, InvalidRequest
from cowshed.model.disk import DiskFormat
from cowshed.tools import format as formats
from cowshed.tools.qcow2 import create_blank, create_overlay
from cowshed.units import GiB, MiB, TiB

HEADER = ">4sIQIIQIIQQIIQQQQII"
FIELDS = (
    "magic", "version", "backing_offset", "backing_length", "cluster_bits", "size", "encryption", "l1_size", "l1_offset",
    "refcount_offset", "refcount_clusters", "snapshots", "snapshots_offset", "incompatible", "compatible", "autoclear",
    "refcount_order", "header_length",
)  # fmt: skip


@contextmanager
def opened(path: Path, flags: int = os.O_RDWR) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


@pytest.fixture
def qcow2(tmp_path: Path) -> Path:
    path = tmp_path / "image.qcow2"
    path.touch()
    with opened(path) as fd:
        create_blank(fd, size=GiB)
    return path


def change(path: Path, **values: int | bytes) -> Path:
    """Set fields of the header."""
    data = bytearray(path.read_bytes())
    fields = dict(zip(FIELDS, struct.unpack_from(HEADER, data), strict=True))
    struct.pack_into(HEADER, data, 0, *{**fields, **values}.values())
    path.write_bytes(data)
    return path


def inspect(path: Path, declared: DiskFormat | None = None, **options: int) -> formats.Inspection:
    with opened(path, os.O_RDONLY) as fd:
        return formats.inspect(fd, image="it", declared=declared, **options)


def raw(path: Path, *pieces: tuple[int, bytes], size: int = MiB) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
        for offset, data in pieces:
            file.seek(offset)
            file.write(data)
    return path


# --- what must work -------------------------------------------------------------------------------


def test_a_qcow2_image_is_found_out(qcow2: Path) -> None:
    found = inspect(qcow2)
    assert (found.format, found.virtual_size, found.data) == (DiskFormat.QCOW2, GiB, 0)
    assert inspect(qcow2, DiskFormat.QCOW2) == found


MBR = (510, b"\x55\xaa")
VALID_RAW = {
    "zeros": [],
    "noise": [(0, random.Random(1).randbytes(4096))],
    "mbr": [(446, b"\x80\1\1\0\x83\xfe\xff\xff\x3f\0\0\0\x81\x1a\0\0"), MBR],
    "gpt": [(446, b"\0\0\2\0\xee\xff\xff\xff\1\0\0\0\xff\xff\xff\xff"), MBR, (512, b"EFI PART\0\0\1\0")],
    "fat": [(0, b"\xeb\x3c\x90mkfs.fat"), (54, b"FAT16   "), MBR],
    "fat32": [(0, b"\xeb\x58\x90mkfs.fat"), (82, b"FAT32   "), MBR],
    "ntfs": [(0, b"\xeb\x52\x90NTFS    "), MBR],
    "ext4": [(1080, b"\x53\xef")],
    "text": [(0, b"hello, this is a disk\n")],
    "qcow2 further in": [(65536, b"QFI\xfb")],
}


@pytest.mark.parametrize("pieces", VALID_RAW.values(), ids=VALID_RAW.keys())
@pytest.mark.parametrize("declared", [None, DiskFormat.RAW])
def test_raw_disks_of_all_kinds_work(
    tmp_path: Path, pieces: list[tuple[int, bytes]], declared: DiskFormat | None
) -> None:
    found = inspect(raw(tmp_path / "disk", *pieces), declared)
    assert (found.format, found.virtual_size) == (DiskFormat.RAW, MiB)


def test_an_ami_is_a_raw_file_system(tmp_path: Path) -> None:
    found = inspect(raw(tmp_path / "disk", (1080, b"\x53\xef")), DiskFormat.AMI)
    assert (found.format, found.virtual_size) == (DiskFormat.RAW, MiB)


def test_holes_of_a_raw_image_are_no_data(tmp_path: Path) -> None:
    assert inspect(raw(tmp_path / "disk", (0, b"x"), size=GiB)).data < MiB


def test_raw_sizes_are_whole_sectors(tmp_path: Path) -> None:
    assert inspect(raw(tmp_path / "disk", size=1000)).virtual_size == 1024


@pytest.mark.parametrize("hybrid", [False, True])
def test_iso_images_work(tmp_path: Path, hybrid: bool) -> None:
    pieces = [(32768, b"\1CD001\1"), *([MBR] if hybrid else [])]
    assert inspect(raw(tmp_path / "iso", *pieces), DiskFormat.ISO).format == DiskFormat.ISO


@pytest.mark.parametrize("magic", [b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"070701", b"MZ"])
def test_kernels_and_ramdisks_are_opaque(tmp_path: Path, magic: bytes) -> None:
    path = raw(tmp_path / "ramdisk", (0, magic))
    assert inspect(path, DiskFormat.ARI).format == DiskFormat.ARI


def test_a_kernel_that_is_a_disk_image_is_refused(qcow2: Path) -> None:
    with pytest.raises(ImageRejected):
        inspect(qcow2, DiskFormat.AKI)


# --- what must not --------------------------------------------------------------------------------

FOREIGN = {
    "qcow1": (0, b"QFI\xfb\0\0\0\1"),
    "qed": (0, b"QED\0"),
    "vmdk": (0, b"KDMV"),
    "vmdk cow": (0, b"COWD"),
    "vmdk descriptor": (0, b"# Disk DescriptorFile\nversion=1\n"),
    "vmdk descriptor without its comment": (0, b'\n# mine\n version=3\nRW 10 FLAT "/etc/passwd" 0\n'),
    "vdi": (0x40, b"\x7f\x10\xda\xbe"),
    "vhd": (0, b"conectix"),
    "vhd footer": (MiB - 512, b"conectix"),
    "vhd footer of 511 bytes": (MiB - 511, b"conectix"),
    "vhdx": (0, b"vhdxfile"),
    "luks": (0, b"LUKS\xba\xbe\0\1"),
    "ploop": (0, b"WithoutFreeSpace"),
    "ploop ext": (0, b"WithouFreSpacExt"),
    "dmg": (MiB - 512, b"koly"),
    "bochs": (0, b"Bochs Virtual HD Image"),
    "cloop": (0, b"#!/bin/sh\n#V2.0 Format"),
    "tar": (257, b"ustar"),
    "gzip": (0, b"\x1f\x8b\x08"),
}


@pytest.mark.parametrize("piece", FOREIGN.values(), ids=FOREIGN.keys())
@pytest.mark.parametrize("declared", [None, DiskFormat.RAW])
def test_other_formats_are_refused_also_when_declared_raw(
    tmp_path: Path, piece: tuple[int, bytes], declared: DiskFormat | None
) -> None:
    with pytest.raises(ImageRejected):
        inspect(raw(tmp_path / "disk", piece), declared)


def test_qcow2_declared_raw_is_refused(qcow2: Path) -> None:
    with pytest.raises(ImageRejected, match="declared raw, but it is qcow2"):
        inspect(qcow2, DiskFormat.RAW)


def test_raw_declared_qcow2_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageRejected, match="no qcow2 signature"):
        inspect(raw(tmp_path / "disk"), DiskFormat.QCOW2)


def test_two_things_at_once_are_refused(qcow2: Path) -> None:
    with qcow2.open("r+b") as file:
        file.seek(32769)
        file.write(b"CD001")
    for declared in (None, DiskFormat.QCOW2, DiskFormat.ISO, DiskFormat.RAW):
        with pytest.raises(ImageRejected, match="several things at once"):
            inspect(qcow2, declared)


def test_an_empty_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageRejected, match="empty"):
        inspect(raw(tmp_path / "disk", size=0))


def test_a_format_that_is_not_on_the_list_is_refused(qcow2: Path) -> None:
    with opened(qcow2, os.O_RDONLY) as fd, pytest.raises(ImageRejected, match="not accepted here"):
        formats.inspect(fd, image="it", allowed=[DiskFormat.RAW])


HOSTILE = {
    "backing file": ({"backing_offset": 1024, "backing_length": 11}, "backing file"),
    "backing file without a name": ({"backing_offset": 1024}, "backing file"),
    "backing name too long": ({"backing_offset": 1024, "backing_length": 5000}, "outside the header"),
    "backing name at the end": ({"backing_offset": 1 << 40, "backing_length": 4}, "outside the header"),
    "data file": ({"incompatible": 4}, "another file"),
    "encrypted": ({"encryption": 1}, "encrypted"),
    "luks": ({"encryption": 2}, "encrypted"),
    "corrupt": ({"incompatible": 2}, "corrupt"),
    "dirty": ({"incompatible": 1}, "not closed cleanly"),
    "extended l2": ({"incompatible": 16}, "extended L2"),
    "unknown feature": ({"incompatible": 1 << 40}, "unknown incompatible"),
    "version 4": ({"version": 4}, "version 4"),
    "version 0": ({"version": 0}, "version 0"),
    "clusters too small": ({"cluster_bits": 3}, "out of range"),
    "clusters too large": ({"cluster_bits": 40}, "out of range"),
    "l1 too large": ({"l1_size": 1 << 30}, "L1 table is too large"),
    "l1 too small": ({"size": 64 * TiB // 8}, "too small for the size"),
    "l1 outside": ({"l1_offset": 1 << 40}, "outside the file"),
    "l1 not aligned": ({"l1_offset": 12345}, "not aligned"),
    "refcount table outside": ({"refcount_offset": 1 << 40}, "refcount"),
    "refcounts too wide": ({"refcount_order": 9}, "too wide"),
    "compression without a type": ({"incompatible": 8}, "contradict"),
    "no refcount table": ({"refcount_clusters": 0}, "no refcount table"),
    "snapshot table": ({"snapshots_offset": 77}, "snapshot table"),
    "header larger than a cluster": ({"cluster_bits": 9, "header_length": 1024}, "longer than its first cluster"),
    "snapshots": ({"snapshots": 65536}, "snapshots"),
    "header length": ({"header_length": 1 << 31}, "header length"),
    "absurd size": ({"size": 1 << 62}, "more than"),
    "no size": ({"size": 0}, "no bytes"),
}


@pytest.mark.parametrize(("values", "reason"), HOSTILE.values(), ids=HOSTILE.keys())
def test_hostile_qcow2_headers_are_refused_with_the_reason(qcow2: Path, values: dict[str, int], reason: str) -> None:
    with pytest.raises(ImageRejected, match=reason):
        inspect(change(qcow2, **values))


def test_a_data_file_in_an_extension_alone_is_refused(qcow2: Path) -> None:
    data = bytearray(qcow2.read_bytes())
    struct.pack_into(">II8s", data, 112, 0x44415441, 8, b"/etc/pwd")
    struct.pack_into(">II", data, 128, 0, 0)
    qcow2.write_bytes(data)
    with pytest.raises(ImageRejected, match="another file"):
        inspect(qcow2)


def test_ten_thousand_extensions_are_refused_at_once(qcow2: Path) -> None:
    data = bytearray(qcow2.read_bytes())
    for number in range(8000):
        struct.pack_into(">II", data, 112 + number * 8, 0x12345678, 0)
    qcow2.write_bytes(data)
    began = time.monotonic()
    with pytest.raises(ImageRejected, match="extensions"):
        inspect(qcow2)
    assert time.monotonic() - began < 1


def test_an_overlay_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "overlay"
    path.touch()
    with opened(path) as fd:
        create_overlay(fd, size=GiB, backing_path=Path("/etc/shadow"), backing_format=DiskFormat.RAW)
    with pytest.raises(ImageRejected, match="backing file"):
        inspect(path)


def l1_of(path: Path) -> int:
    with path.open("rb") as file:
        return dict(zip(FIELDS, struct.unpack(HEADER, file.read(104)), strict=True))["l1_offset"]  # type: ignore[no-any-return]


def map_cluster(path: Path, entry: int, *, l2: int | None = None) -> Path:
    """Give guest cluster 0 the L2 entry ``entry``."""
    with path.open("r+b") as file:
        file.seek(0, os.SEEK_END)
        table = file.tell() if l2 is None else l2
        if l2 is None:
            file.write(struct.pack(">Q", entry) + bytes(65536 - 8))
        file.seek(l1_of(path))
        file.write(struct.pack(">Q", table | 1 << 63))
    return path


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (1 << 40, "data cluster lies outside"),
        (512, "data cluster lies outside"),
        (1 << 62 | 1 << 45, "compressed cluster lies outside"),
    ],
)
def test_clusters_outside_the_file_are_refused(qcow2: Path, entry: int, reason: str) -> None:
    with pytest.raises(ImageRejected, match=reason):
        inspect(map_cluster(qcow2, entry))


def test_a_disk_too_large_for_its_clusters_says_what_would_do(tmp_path: Path) -> None:
    with (tmp_path / "large").open("wb") as file:
        with pytest.raises(InvalidRequest, match="100 PiB needs larger clusters than 64 KiB") as caught:
            create_blank(file.fileno(), size=100 * 2**50)
        assert "cluster_size" in (caught.value.hint or "")
        with pytest.raises(InvalidRequest) as caught:
            create_blank(file.fileno(), size=100 * 2**60, cluster_size=2**21)
        assert caught.value.hint is None


def test_an_l2_table_outside_the_file_is_refused(qcow2: Path) -> None:
    with pytest.raises(ImageRejected, match="L2 table"):
        inspect(map_cluster(qcow2, 0, l2=1 << 40))


def test_the_first_64_kib_of_a_stream_are_enough_to_refuse(qcow2: Path) -> None:
    allowed = (DiskFormat.RAW, DiskFormat.QCOW2)
    assert (
        formats.look(qcow2.read_bytes()[: formats.HEAD], declared=None, allowed=allowed, image="it") == DiskFormat.QCOW2
    )
    change(qcow2, incompatible=4)
    with pytest.raises(ImageRejected, match="another file"):
        formats.look(qcow2.read_bytes()[: formats.HEAD], declared=None, allowed=allowed, image="it")


def test_mutated_headers_raise_nothing_else(qcow2: Path) -> None:
    """A thousand random changes of the header: accepted or refused, never another error, never slow."""
    generator, good = random.Random(7), qcow2.read_bytes()
    began = time.monotonic()
    for _ in range(1000):
        data = bytearray(good)
        for _ in range(generator.randrange(1, 6)):
            data[generator.randrange(0, 160)] = generator.randrange(256)
        qcow2.write_bytes(data)
        with suppress(ImageRejected):
            assert inspect(qcow2).virtual_size > 0
    assert time.monotonic() - began < 20
