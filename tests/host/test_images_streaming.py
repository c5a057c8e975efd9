"""Bases from streams, in one pass: the same bytes as qemu-img makes, nothing on this host's disk, no lie believed."""

from __future__ import annotations

import hashlib
import io
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from cowshed.config import CacheSection
from cowshed.contract.callbacks import NoProgress
from cowshed.errors import CowshedError, DigestMismatch, FetchFailed, ImageRejected, Interrupted
from cowshed.images import fetch, streaming
from cowshed.images.cache import Cache
from cowshed.images.glance import GlanceService
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image
from cowshed.testing import MemoryImages
from cowshed.tools.transfer.pump import CHUNK
from cowshed.units import KiB, MiB
from tests.glance_proxy import Fault, proxy
from tests.glance_server import Glance

SIZE = 21 * MiB + 512
CONTENT = bytearray(SIZE)
CONTENT[4096 : 3 * MiB] = os.urandom(3 * MiB - 4096)
CONTENT[9 * MiB : 9 * MiB + 70_000] = b"cowshed" * 10_000
CONTENT[17 * MiB : 17 * MiB + 5] = b"hello"
CONTENT[-3:] = b"end"


class Streams(MemoryImages):
    """Sends bytes and parts of them; ``lie`` changes what it says."""

    def __init__(self, lie: object = None) -> None:
        super().__init__()
        self.parts = 0

    def open_range(self, image: Image, start: int, length: int) -> BinaryIO:
        self.parts += 1
        return io.BytesIO(self.content(image)[start : start + length])


def convert(tmp_path: Path, *words: str, content: bytes = bytes(CONTENT)) -> bytes:
    (tmp_path / "raw").write_bytes(content)
    command = ["qemu-img", "convert", "-f", "raw", "-O", "qcow2", *words, tmp_path / "raw", tmp_path / "qcow2"]
    subprocess.run(command, check=True, timeout=60)
    return (tmp_path / "qcow2").read_bytes()


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", CacheSection())


@pytest.fixture
def no_spool(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("it was copied to this host first")

    monkeypatch.setattr(fetch, "_stored", refuse)


KINDS = {
    "plain": [],
    "compressed": ["-c"],
    "zstd": ["-c", "-o", "compression_type=zstd"],
    "small-clusters": ["-o", "cluster_size=4k"],
    "large-clusters": ["-o", "cluster_size=2M"],
    "preallocated": ["-o", "preallocation=metadata"],
    "old": ["-o", "compat=0.10"],
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.usefixtures("no_spool")
def test_a_qcow2_image_in_one_pass(cache: Cache, tmp_path: Path, kind: str) -> None:
    service = Streams()
    image = service.add("x", convert(tmp_path, *KINDS[kind]), disk_format=DiskFormat.QCOW2)
    base = cache.get(image, service)
    assert base.path.read_bytes() == bytes(CONTENT)
    cache.verify(base)
    assert base.path.stat().st_blocks * 512 < 5 * MiB


@pytest.mark.parametrize("size", [512, 1000, CHUNK - 1, CHUNK, CHUNK + 513, SIZE])
@pytest.mark.usefixtures("no_spool")
def test_a_raw_image_in_one_pass(cache: Cache, size: int) -> None:
    service = Streams()
    image = service.add("x", bytes(CONTENT[:size]))
    base = cache.get(image, service)
    assert base.path.read_bytes() == bytes(CONTENT[:size]) + bytes(-size % 512)
    cache.verify(base)
    assert service.parts == 0


def test_more_data_than_there_are_buffers(cache: Cache, tmp_path: Path) -> None:
    content = os.urandom(200 * MiB)
    service = Streams()
    for data, kind in ((content, DiskFormat.RAW), (convert(tmp_path, content=content), DiskFormat.QCOW2)):
        base = cache.get(service.add(f"x-{kind}", data, disk_format=kind), service)
        assert hashlib.sha256(base.path.read_bytes()).digest() == hashlib.sha256(content).digest()


def test_clusters_all_over_the_file_are_spooled(cache: Cache, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Written backwards through QEMU: every chunk stays open until its first cluster passes last."""
    path = tmp_path / "scattered"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "400M"], check=True, timeout=60)
    words = [f"write -P {1 + n % 250} {n * 2}M 64k" for n in range(190, -1, -1)]
    words += [f"write -P 9 {n * 2 * 1024 + 512}k 64k" for n in range(190)]
    command = ["qemu-io", "-f", "qcow2", *[part for word in words for part in ("-c", word)], path]
    subprocess.run(command, check=True, timeout=60, stdout=subprocess.DEVNULL)
    service = Streams()
    image = service.add("x", path.read_bytes(), disk_format=DiskFormat.QCOW2)
    spooled = []
    stored = fetch._stored
    monkeypatch.setattr(fetch, "_stored", lambda *words: spooled.append(1) or stored(*words))
    base = cache.get(image, service)
    assert spooled
    raw = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], check=True, timeout=60)
    assert base.path.read_bytes() == raw.read_bytes()


@pytest.fixture(params=[DiskFormat.RAW, DiskFormat.QCOW2])
def stored(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[DiskFormat, bytes]:
    return request.param, bytes(CONTENT) if request.param == DiskFormat.RAW else convert(tmp_path)


class Lying(Streams):
    """The stream is another than the record and the parts say."""

    def __init__(self, change: object) -> None:
        super().__init__()
        self.change = change

    def open(self, image: Image, *, offset: int = 0) -> BinaryIO:
        return io.BytesIO(self.change(super().open(image, offset=offset).read()))  # type: ignore[operator]


LIES = {
    "shorter": (lambda data: data[:-1], FetchFailed),
    "empty": (lambda data: b"", CowshedError),
    "longer": (lambda data: data + b"x", FetchFailed),
    "other": (lambda data: data[:-1] + bytes([data[-1] ^ 1]), DigestMismatch),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_stream_that_lies_makes_no_base(cache: Cache, stored: tuple[DiskFormat, bytes], lie: str) -> None:
    change, error = LIES[lie]
    service = Lying(change)
    image = service.add("x", stored[1], disk_format=stored[0])
    with pytest.raises(error):
        cache.get(image, service)
    assert cache.find(image.id) is None
    assert [path.name for path in cache.root.iterdir() if path.is_file()] == []


def test_tables_that_differ_from_those_that_were_judged_are_found(cache: Cache, tmp_path: Path) -> None:
    """The digest is right, since it is of the stream: only the parts lied."""
    data = convert(tmp_path)
    other = convert(tmp_path, content=bytes(CONTENT[:MiB]) + bytes(SIZE - MiB))

    class Parts(Streams):
        def open_range(self, image: Image, start: int, length: int) -> BinaryIO:
            return io.BytesIO(other.ljust(len(data), b"\0")[start : start + length])

    service = Parts()
    image = service.add("x", data, disk_format=DiskFormat.QCOW2)
    with pytest.raises(CowshedError, match="others than before"):
        cache.get(image, service)
    assert cache.find(image.id) is None


def test_what_is_refused_is_never_written(cache: Cache, tmp_path: Path) -> None:
    (tmp_path / "base").write_bytes(bytes(CONTENT))
    overlay = tmp_path / "overlay"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-b", tmp_path / "base", "-F", "raw", overlay]
    subprocess.run(command, check=True, timeout=60)
    service = Streams()
    good = service.add("good", bytes(CONTENT))
    for data, declared in ((overlay.read_bytes(), DiskFormat.QCOW2), (convert(tmp_path), DiskFormat.RAW)):
        service._bytes[good.id] = data
        image = replace(good, size=len(data), disk_format=declared)
        sinks: list[Any] = []

        class Sink:
            def __init__(self, size: int, known: int, *, made: list[Any] = sinks) -> None:
                made.append(self)
                self.size, self.written, self.closed = size, 0, False

            def write(self, start: int, data: memoryview) -> None:
                raise AssertionError("written")

            def digest(self) -> str:
                raise AssertionError("finished")

            def close(self) -> None:
                self.closed = True

        with pytest.raises(ImageRejected):
            fetch.fill(image, service, Sink, tmp_path, keep_format=False, progress=NoProgress())
        assert all(sink.closed for sink in sinks)


def test_a_footer_is_seen_although_it_comes_last(cache: Cache) -> None:
    service = Streams()
    image = service.add("x", bytes(CONTENT))
    data = bytes(CONTENT[:-512]) + b"conectix" + bytes(504)
    service._bytes[image.id] = data
    image = replace(image, os_hash_algo="sha256", os_hash_value=hashlib.sha256(data).hexdigest())
    with pytest.raises(ImageRejected, match="VHD"):
        cache.get(image, service)
    assert cache.find(image.id) is None


def test_an_interruption_leaves_nothing(tmp_path: Path, stored: tuple[DiskFormat, bytes]) -> None:
    class Stop(NoProgress):
        def update(self, done: int) -> None:
            raise Interrupted(what="fetching")

    cache = Cache(tmp_path / "cache", CacheSection())
    service = Streams()
    image = service.add("x", stored[1], disk_format=stored[0])
    with pytest.raises(Interrupted):
        cache.get(image, service, progress=Stop())
    assert cache.find(image.id) is None


# --- from a real Glance ---------------------------------------------------------------------------


@pytest.fixture
def glances(glance: Glance, stored: tuple[DiskFormat, bytes]) -> Iterator[tuple[GlanceService, Image, list[Fault]]]:
    with proxy(glance.url) as between:
        service = GlanceService(glance.section(endpoints=(between.url,)))
        image = service.upload(
            Image(id="", name=f"streamed-{os.urandom(4).hex()}", disk_format=stored[0]), io.BytesIO(stored[1])
        )
        yield service, image, between.faults
        between.faults.clear()
        service.delete(image.id)
        service.close()


@pytest.mark.usefixtures("no_spool")
def test_a_base_from_glance_in_one_pass(cache: Cache, glances: tuple[GlanceService, Image, list[Fault]]) -> None:
    service, image, _ = glances
    assert cache.get(image, service).path.read_bytes() == bytes(CONTENT)


@pytest.mark.usefixtures("no_spool")
def test_a_broken_connection_does_not_begin_again(
    cache: Cache, glances: tuple[GlanceService, Image, list[Fault]]
) -> None:
    service, image, faults = glances
    faults += [Fault("/file", cut=700 * KiB), Fault("/file", cut=300 * KiB)]
    service.client.section = replace(service.client.section, retries=3)
    assert cache.get(image, service).path.read_bytes() == bytes(CONTENT)


def test_a_glance_without_ranges_is_used_too(
    cache: Cache, glances: tuple[GlanceService, Image, list[Fault]], monkeypatch: pytest.MonkeyPatch
) -> None:
    service, image, _ = glances

    def no_ranges(*_: object) -> None:
        raise streaming.UnsupportedOperation(subject="it", operation="send a part", reason="so it is")

    monkeypatch.setattr(service, "open_range", no_ranges)
    assert cache.get(image, service).path.read_bytes() == bytes(CONTENT)
