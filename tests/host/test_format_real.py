"""Inspection of what real tools make: valid images work, foreign and unsafe ones are refused."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from cowshed.errors import ImageRejected
from cowshed.model.disk import DiskFormat
from cowshed.tools import format as formats
from cowshed.tools.qcow2 import create_blank, mapping, read_header
from cowshed.tools.qcow2.mapping import Kind, data_bytes
from cowshed.units import GiB, MiB, TiB
from tests.luks_images import qemu_img


def sh(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


def encrypt(format: str, options: str, path: Path, size: str) -> None:
    """Make an encrypted image; ``options`` name the secret s."""
    qemu_img("create", "-q", "-f", format, "--object", "secret,id=s,data=abc", "-o", options, path, size)


def inspect(path: Path, declared: DiskFormat | None = None) -> formats.Inspection:
    fd = os.open(path, os.O_RDONLY)
    try:
        return formats.inspect(fd, image="it", declared=declared)
    finally:
        os.close(fd)


# --- raw ------------------------------------------------------------------------------------------

RAW = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "btrfs": ["mkfs.btrfs", "-q", "-f"],
    "fat16": ["mkfs.vfat", "-F", "16"],
    "fat32": ["mkfs.vfat", "-F", "32"],
    "ntfs": ["mkfs.ntfs", "-q", "-F"],
    "swap": ["mkswap"],
}


@pytest.fixture(params=RAW.values(), ids=RAW.keys())
def made_raw(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    if shutil.which(request.param[0]) is None:
        pytest.skip(f"needs {request.param[0]}: see scripts/packages.sh test")
    path = tmp_path / "disk.raw"
    with path.open("wb") as file:
        file.truncate(400 * MiB)
    sh(*request.param, path)
    return path


@pytest.mark.parametrize("declared", [None, DiskFormat.RAW, DiskFormat.AMI])
def test_whole_disk_file_systems_work(made_raw: Path, declared: DiskFormat | None) -> None:
    found = inspect(made_raw, declared)
    assert (found.format, found.virtual_size) == (DiskFormat.RAW, 400 * MiB)
    assert found.data <= made_raw.stat().st_blocks * 512


# --- other formats --------------------------------------------------------------------------------

FOREIGN = [
    ("qcow", ""), ("qed", ""), ("vdi", ""), ("vhdx", ""), ("parallels", ""),
    ("vpc", "subformat=dynamic"), ("vpc", "subformat=fixed"),
    ("vmdk", "subformat=monolithicSparse"), ("vmdk", "subformat=monolithicFlat"),
    ("vmdk", "subformat=streamOptimized"), ("vmdk", "subformat=twoGbMaxExtentFlat"),
]  # fmt: skip


@pytest.mark.parametrize(("format", "option"), FOREIGN)
def test_what_qemu_img_makes_in_other_formats_is_refused(tmp_path: Path, format: str, option: str) -> None:
    path = tmp_path / "image"
    sh("qemu-img", "create", "-q", "-f", format, *(["-o", option] if option else []), path, "64M")
    for declared in (None, DiskFormat.RAW, DiskFormat.AMI, DiskFormat.ISO, DiskFormat.QCOW2):
        with pytest.raises(ImageRejected):
            inspect(path, declared)


def test_luks_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image"
    encrypt("luks", "key-secret=s,iter-time=10", path, "1M")
    for declared in (None, DiskFormat.RAW):
        with pytest.raises(ImageRejected, match="LUKS"):
            inspect(path, declared)


# --- qcow2 ----------------------------------------------------------------------------------------

UNSAFE = {
    "extended_l2=on": "extended L2",
    "data_file={place}/data": "another file",
    "data_file={place}/data,data_file_raw=on": "another file",
    "backing_file={place}/base,backing_fmt=raw": "backing file",
    "encrypt.format=luks,encrypt.key-secret=s,encrypt.iter-time=10": "encrypted",
}


@pytest.mark.parametrize(("option", "reason"), UNSAFE.items())
def test_qcow2_that_is_not_self_contained_is_refused(tmp_path: Path, option: str, reason: str) -> None:
    (tmp_path / "base").write_bytes(bytes(MiB))
    path = tmp_path / "image"
    if "encrypt" in option:
        encrypt("qcow2", option, path, "64M")
    else:
        sh("qemu-img", "create", "-q", "-f", "qcow2", "-o", option.format(place=tmp_path), path, "64M")
    for declared in (None, DiskFormat.QCOW2):
        with pytest.raises(ImageRejected, match=reason):
            inspect(path, declared)


def test_an_image_that_is_its_own_backing_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "image"
    sh("qemu-img", "create", "-q", "-f", "qcow2", path, "64M")
    sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", path, "-F", "qcow2", path)
    with pytest.raises(ImageRejected, match="backing file"):
        inspect(path)


def test_internal_snapshots_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "image"
    sh("qemu-img", "create", "-q", "-f", "qcow2", path, "64M")
    sh("qemu-img", "snapshot", "-c", "one", path)
    with pytest.raises(ImageRejected, match="1 internal snapshots"):
        inspect(path)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
@pytest.mark.parametrize("options", [[], ["-c"]], ids=["plain", "compressed"])
def test_a_truncated_image_is_refused(tmp_path: Path, keep: float, options: list[str]) -> None:
    """qemu-img reads what is missing as zeros and says nothing."""
    raw, path = tmp_path / "raw", tmp_path / "image"
    raw.write_bytes((random.Random(1).randbytes(1024) * 32 + bytes(32768)) * 64)
    sh("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *options, raw, path)
    os.truncate(path, int(path.stat().st_size * keep) & ~511)
    if options and keep > 0.9:
        return  # the tail of a packed cluster may be padding
    with pytest.raises(ImageRejected):
        inspect(path)


SIZES = ["cluster_size=512", "cluster_size=4096", "", "cluster_size=2M", "preallocation=metadata", "compat=0.10"]


@pytest.mark.parametrize(
    ("options", "compressed"),
    [(options, packed) for options in SIZES for packed in (False, True) if not (packed and "prealloc" in options)],
)
def test_the_mapping_agrees_with_qemu_img(tmp_path: Path, options: str, compressed: bool) -> None:
    raw, path = tmp_path / "raw", tmp_path / "image"
    generator = random.Random(5)
    with raw.open("wb") as file:
        file.truncate(20 * MiB + 1024)
        for _ in range(40):
            file.seek(generator.randrange(20 * MiB) & ~511)
            file.write(b"data" * generator.randrange(1, 20_000))
    words = [*(["-c"] if compressed else []), *(["-o", options] if options else [])]
    sh("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *words, raw, path)
    with path.open("rb") as file:
        header = read_header(file.fileno())
        extents = list(mapping(file.fileno(), header))
        total = data_bytes(file.fileno(), header)
    ours = {
        extent.start // 512 + sector
        for extent in extents
        if extent.kind in (Kind.DATA, Kind.COMPRESSED)
        for sector in range(-(-extent.length // 512))
    }
    theirs = {
        part["start"] // 512 + sector
        for part in json.loads(sh("qemu-img", "map", "-f", "qcow2", "--output=json", path))
        if part["data"]
        for sector in range(-(-part["length"] // 512))
    }
    assert ours == theirs
    assert len(ours) * 512 <= total <= min(len(ours) * 512 + header.cluster_size, header.size)


@pytest.mark.parametrize(
    ("size", "options"), [(64 * GiB, "preallocation=metadata"), (100 * GiB, "cluster_size=512"), (15 * TiB, "")]
)
def test_large_images_are_inspected_in_no_time(tmp_path: Path, size: int, options: str) -> None:
    path = tmp_path / "image"
    sh("qemu-img", "create", "-q", "-f", "qcow2", *(["-o", options] if options else []), path, size)
    began = time.process_time()
    assert inspect(path).virtual_size == size
    assert time.process_time() - began < 2


def test_what_is_accepted_is_the_same_for_qemu(tmp_path: Path) -> None:
    """Random changes of the first cluster: what passes is an image of the same size for qemu-img."""
    path, generator = tmp_path / "image", random.Random(11)
    path.touch()
    fd = os.open(path, os.O_RDWR)
    create_blank(fd, size=GiB)
    os.close(fd)
    good, accepted = path.read_bytes(), 0
    for _ in range(400):
        data = bytearray(good)
        for _ in range(generator.randrange(1, 4)):
            data[generator.randrange(4, 130)] ^= 1 << generator.randrange(8)
        path.write_bytes(data)
        try:
            found = inspect(path, DiskFormat.QCOW2)
        except ImageRejected:
            continue
        accepted += 1
        if accepted > 25:
            break
        info = json.loads(sh("qemu-img", "info", "-f", "qcow2", "--output=json", path))
        assert (info["format"], info["virtual-size"]) == ("qcow2", found.virtual_size)
        assert "backing-filename" not in info
    assert accepted
