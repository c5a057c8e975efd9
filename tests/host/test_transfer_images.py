"""Conversions compared with qemu-img's, over the kinds of qcow2 that qemu-img makes."""

from __future__ import annotations

import hashlib
import itertools
import os
import random
import subprocess
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from cowshed.contract.callbacks import NoProgress
from cowshed.errors import InvalidRequest, NameTaken
from cowshed.model.disk import DiskFormat, DiskSource, DiskType
from cowshed.tools import format as formats
from cowshed.tools import qcow2, transfer
from cowshed.units import GiB, MiB

SIZE = 96 * MiB + 512 * 3  # an odd number of sectors, and no whole clusters


def sh(*command: object) -> str:
    return subprocess.run([str(word) for word in command], check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise, text, lone sectors and zeros."""
    path = tmp_path_factory.mktemp("content") / "content.raw"
    generator = random.Random(3)
    with path.open("wb") as file:
        file.truncate(SIZE)
        for number in range(60):
            file.seek(generator.randrange(SIZE - MiB) & ~511)
            noise = generator.randbytes(generator.choice([512, 4096, 65536, 300_000]))
            file.write(noise if number % 2 else b"words and numbers %d\n" % number * 2000)
        file.seek(SIZE - 512)
        file.write(generator.randbytes(512))
    return path


KINDS = {
    "plain": [],
    "version 2": ["-o", "compat=0.10"],
    "zlib": ["-c"],
    "zstd": ["-c", "-o", "compression_type=zstd"],
    "512 byte clusters": ["-o", "cluster_size=512"],
    "2 MiB clusters": ["-o", "cluster_size=2M"],
    "compressed 4 KiB clusters": ["-c", "-o", "cluster_size=4096"],
    "preallocated metadata": ["-o", "preallocation=metadata"],
    "lazy refcounts": ["-o", "lazy_refcounts=on"],
    "out of order": ["-m", "16", "-W"],
}


@pytest.fixture(scope="module", params=KINDS.values(), ids=KINDS.keys())
def image(request: pytest.FixtureRequest, content: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "image.qcow2"
    sh("qemu-img", "convert", "-f", "raw", "-O", "qcow2", *request.param, content, path)
    return path


def same(first: Path, second: Path, format: str = "raw") -> bool:
    return "identical" in sh("qemu-img", "compare", "-f", "raw", "-F", format, first, second)


def fetched(source: Path, target: Path, **options: bool) -> transfer.Copied:
    fd, out = os.open(source, os.O_RDONLY), os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL)
    try:
        return transfer.fetch(fd, transfer.into_file(out, target.parent), formats.inspect(fd, image="it"), **options)
    finally:
        os.close(fd)
        os.close(out)


def test_a_base_equals_the_image(image: Path, content: Path, tmp_path: Path) -> None:
    copied = fetched(image, tmp_path / "base")
    assert same(content, tmp_path / "base")
    assert copied.source_digest == hashlib.sha256(image.read_bytes()).hexdigest()
    assert copied.digest == transfer.digest_of(tmp_path / "base")


def test_zeros_are_not_written(image: Path, content: Path, tmp_path: Path) -> None:
    copied = fetched(image, tmp_path / "base")
    allocated = (tmp_path / "base").stat().st_blocks * 512
    assert copied.written <= content.stat().st_blocks * 512 + 64 * 65536
    assert allocated <= copied.written + MiB


def test_the_mapping_covers_the_disk(image: Path) -> None:
    with image.open("rb") as file:
        header = qcow2.read_header(file.fileno())
        extents = list(qcow2.mapping(file.fileno(), header))
    assert extents[0].start == 0
    assert all(a.start + a.length == b.start for a, b in itertools.pairwise(extents))
    assert extents[-1].start + extents[-1].length == header.size == SIZE


@pytest.mark.parametrize(("format", "compress"), [("raw", False), ("qcow2", False), ("qcow2", True)])
def test_an_export_equals_the_disk(image: Path, content: Path, tmp_path: Path, format: str, compress: bool) -> None:
    target = tmp_path / "out"
    source = DiskSource(DiskType.FILE, DiskFormat.QCOW2, image)
    transfer.export(source, target, DiskFormat(format), compress=compress)
    assert same(content, target, format)
    if format == "qcow2":
        assert "No errors" in sh("qemu-img", "check", "-f", "qcow2", target)


def test_an_overlay_is_read_with_the_parent_that_is_given(content: Path, tmp_path: Path) -> None:
    """What the overlay says of its parent may be a guest's lie."""
    overlay, lie = tmp_path / "overlay", tmp_path / "lie"
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", content, "-F", "raw", overlay, 2 * GiB)
    sh(
        "qemu-io",
        "-f",
        "qcow2",
        "-c",
        "write -P 9 3M 5M",
        "-c",
        "write -z 20M 3M",
        "-c",
        "write -P 7 1500M 1M",
        overlay,
    )
    expected = tmp_path / "expected"
    sh("qemu-img", "convert", "-f", "qcow2", "-O", "raw", overlay, expected)
    lie.write_bytes(b"x" * MiB)
    sh("qemu-img", "rebase", "-u", "-f", "qcow2", "-b", lie, "-F", "raw", overlay)
    source = DiskSource(
        DiskType.FILE, DiskFormat.QCOW2, overlay, backing=DiskSource(DiskType.FILE, DiskFormat.RAW, content)
    )
    transfer.export(source, tmp_path / "out", DiskFormat.QCOW2, compress=True)
    assert same(expected, tmp_path / "out", "qcow2")


def test_a_kept_image_is_the_same_file(image: Path, tmp_path: Path) -> None:
    fetched(image, tmp_path / "base", keep_format=True)
    assert (tmp_path / "base").read_bytes() == image.read_bytes()


@pytest.mark.parametrize("kind", [DiskFormat.RAW, DiskFormat.QCOW2])
def test_what_holds_nothing_takes_no_time(tmp_path: Path, kind: DiskFormat) -> None:
    """8 TiB with 3 clusters of data, through a chain of three; progress still counts all of it."""
    base, middle, top = tmp_path / "base", tmp_path / "middle", tmp_path / "top"
    with base.open("wb") as file:
        file.truncate(2 << 40)
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", middle, 4 << 40)
    sh("qemu-img", "create", "-q", "-f", "qcow2", "-b", middle, "-F", "qcow2", top, 8 << 40)
    with base.open("r+b") as file:
        file.seek(1 << 40)
        file.write(b"one")
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 2 3T 64k", middle)
    sh("qemu-io", "-f", "qcow2", "-c", "write -P 3 7T 64k", top)
    chain = DiskSource(DiskType.FILE, DiskFormat.RAW, base)
    for path in (middle, top):
        chain = DiskSource(DiskType.FILE, DiskFormat.QCOW2, path, backing=chain)
    counted = Counted()
    began = time.process_time()
    transfer.export(chain, tmp_path / "out", kind, progress=counted)
    assert time.process_time() - began < 5
    assert counted.done == 8 << 40
    words = ["-c", "read -P 0 2T 1M", "-c", "read -P 2 3T 64k", "-c", "read -P 3 7T 64k", "-c", "read -v 1T 3"]
    said = sh("qemu-io", "-r", "-f", kind, *words, tmp_path / "out")
    assert "6f 6e 65" in said
    assert "failed" not in said


class Counted(NoProgress):
    def __init__(self) -> None:
        self.done = 0
        self._lock = threading.Lock()

    def update(self, done: int) -> None:
        with self._lock:
            self.done += done


def test_nothing_is_left_of_an_export_that_cannot_be(content: Path, tmp_path: Path) -> None:
    source = DiskSource(DiskType.FILE, DiskFormat.RAW, content)
    for kind, compress in ((DiskFormat.ISO, False), (DiskFormat.RAW, True)):
        with pytest.raises(InvalidRequest):
            transfer.export(source, tmp_path / "out", kind, compress=compress)
    (tmp_path / "out").write_bytes(b"mine")
    with pytest.raises(NameTaken):
        transfer.export(source, tmp_path / "out", DiskFormat.RAW)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out").read_bytes() == b"mine"


def test_memory_does_not_grow_with_the_image(tmp_path: Path) -> None:
    peaks = []
    for size in (64 * MiB, 512 * MiB):
        path = tmp_path / f"{size}.raw"
        with path.open("wb") as file:
            file.truncate(size)
            for offset in range(0, size, 4 * MiB):
                file.seek(offset)
                file.write(b"\1" * 65536)
        tracemalloc.start()
        fetched(path, tmp_path / f"{size}.base")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] * 1.5 + 4 * MiB
