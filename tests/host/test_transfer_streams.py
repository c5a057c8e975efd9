"""Disks as streams: qemu-img finds the same content in what came out as in the disk."""

from __future__ import annotations

import io
import os
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from cowshed.model.disk import DiskFormat, DiskSource, DiskType
from cowshed.tools.transfer.export import open_layer
from cowshed.tools.transfer.streams import ContentStream, Qcow2Stream, RawStream
from cowshed.units import GiB, KiB, MiB


def qemu_img(*words: object) -> str:
    done = subprocess.run(["qemu-img", *map(str, words)], capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def sparse(path: Path, size: int, *pieces: tuple[int, int]) -> Path:
    """``size`` bytes with random data at (offset, length)."""
    with path.open("wb") as file:
        file.truncate(size)
        for offset, length in pieces:
            file.seek(offset)
            file.write(os.urandom(length))
    return path


CASES = {
    "empty": (MiB, []),
    "tiny": (512, [(0, 512)]),
    "odd-size": (5 * MiB + 512, [(0, 4096), (5 * MiB, 512)]),
    "scattered": (40 * GiB, [(0, 4096), (3 * GiB + 100, 70 * KiB), (39 * GiB, MiB), (40 * GiB - 5, 5)]),
    "dense": (20 * MiB, [(0, 20 * MiB)]),
}


@pytest.fixture(params=CASES)
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    size, pieces = CASES[request.param]
    return sparse(tmp_path / "disk", size, *pieces)


def raw(path: Path) -> DiskSource:
    return DiskSource(DiskType.FILE, DiskFormat.RAW, path)


def drain(stream: ContentStream, target: Path, piece: int = 1 << 18) -> None:
    with target.open("wb") as file:
        while data := stream.read(piece):
            file.write(data)
    assert target.stat().st_size == stream.length == stream.tell()


def test_a_raw_disk_as_qcow2(disk: Path, tmp_path: Path) -> None:
    with ExitStack() as stack:
        drain(Qcow2Stream(open_layer(raw(disk), stack)), tmp_path / "out")
    qemu_img("check", "-f", "qcow2", tmp_path / "out")
    qemu_img("compare", "-f", "raw", "-F", "qcow2", disk, tmp_path / "out")
    assert (tmp_path / "out").stat().st_size < disk.stat().st_blocks * 512 + 6 * MiB


def test_a_chain_of_qcow2_as_qcow2_and_raw(tmp_path: Path) -> None:
    base = sparse(tmp_path / "base.raw", 30 * MiB, (0, MiB), (10 * MiB, 5 * MiB))
    middle, top = tmp_path / "middle", tmp_path / "top"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", middle, 31 * MiB)
    qemu_img("create", "-q", "-f", "qcow2", "-b", middle, "-F", "qcow2", top, 40 * MiB)
    words = ["-c", "write -P 7 11M 70k", "-c", "write -z 12M 1M", "-c", "write -P 9 39M 1M"]
    subprocess.run(["qemu-io", "-f", "qcow2", *words, top], check=True, timeout=60, stdout=subprocess.DEVNULL)
    source = DiskSource(
        DiskType.FILE,
        DiskFormat.QCOW2,
        top,
        backing=DiskSource(DiskType.FILE, DiskFormat.QCOW2, middle, backing=raw(base)),
    )
    for kind, name in ((Qcow2Stream, "qcow2"), (RawStream, "raw")):
        with ExitStack() as stack:
            drain(kind(open_layer(source, stack)), tmp_path / name)
        qemu_img("compare", "-f", "qcow2", "-F", name, top, tmp_path / name)
    # 1 MiB + 5 MiB of the base (of which 1 MiB was zeroed), and 1 MiB: not the 30 MiB that the first table spans.
    assert (tmp_path / "qcow2").stat().st_size < 7 * MiB


def test_compressed_and_zeroed_clusters_are_told_apart(tmp_path: Path) -> None:
    """The lowest bit of an entry means zeros, except in one of a compressed cluster."""
    disk = sparse(tmp_path / "disk", 20 * MiB)
    with disk.open("r+b") as file:
        file.write(b"".join(bytes([number % 251 + 1]) * 4096 for number in range(2 * MiB // 4096)))
    packed = tmp_path / "packed"
    qemu_img("convert", "-c", "-f", "raw", "-O", "qcow2", disk, packed)
    words = ["-c", "write -z 1M 64k", "-c", "write -P 3 19M 64k"]
    subprocess.run(["qemu-io", "-f", "qcow2", *words, packed], check=True, timeout=60, stdout=subprocess.DEVNULL)
    with ExitStack() as stack:
        drain(Qcow2Stream(open_layer(DiskSource(DiskType.FILE, DiskFormat.QCOW2, packed), stack)), tmp_path / "out")
    qemu_img("compare", "-f", "qcow2", "-F", "qcow2", packed, tmp_path / "out")
    assert (tmp_path / "out").stat().st_size < 3 * MiB


@pytest.mark.parametrize("kind", [Qcow2Stream, RawStream])
def test_a_stream_can_be_measured_and_read_again(tmp_path: Path, kind: type[ContentStream]) -> None:
    disk = sparse(tmp_path / "disk", 3 * MiB, (0, MiB), (2 * MiB, 1000))
    with ExitStack() as stack:
        stream = kind(open_layer(raw(disk), stack))  # type: ignore[call-arg]
        assert stream.seek(0, io.SEEK_END) == stream.length
        assert stream.read() == b""
        stream.seek(0)
        first = stream.read()
        assert len(first) == stream.length
        stream.seek(0)
        assert stream.read(70_001) == first[:70_001]
        assert stream.tell() == 70_001
        stream.seek(-1, io.SEEK_CUR)
        assert stream.read(10) == first[70_000:70_010]
        stream.seek(MiB)
        assert stream.read() == first[MiB:]
        with pytest.raises(OSError):
            stream.seek(-1)


class Everything:
    """A disk that may hold data everywhere, and holds none."""

    size = 2 * GiB + 300 * MiB

    def fill(self, buffer: memoryview, start: int) -> bool:
        return False

    def next_data(self, start: int) -> int:
        return start


def test_more_clusters_than_one_refcount_block_counts(tmp_path: Path) -> None:
    stream = Qcow2Stream(Everything())
    with (tmp_path / "out").open("wb") as file:
        while data := stream.read(MiB):
            if data.strip(b"\0"):
                file.write(data)
            else:
                file.seek(len(data), io.SEEK_CUR)
        file.truncate(stream.length)
    qemu_img("check", "-f", "qcow2", tmp_path / "out")
