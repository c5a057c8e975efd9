"""The cache when things go wrong for real: full file systems, killed processes, services that lie."""

from __future__ import annotations

import hashlib
import io
import json
import multiprocessing
import os
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from cowshed.config import CacheSection
from cowshed.errors import DataCorrupt, DigestMismatch, FetchFailed, ImageRejected, InvalidRequest, NoSpace
from cowshed.images.cache import Cache, name_of
from cowshed.images.sweep import sweep
from cowshed.model.disk import DiskFormat, DiskSource, DiskType
from cowshed.model.image import Image
from cowshed.tools import transfer
from cowshed.units import GiB, MiB
from tests.conftest import LoopFs
from tests.image_services import OpeningService

NOISE = random.Random(2).randbytes(8 * MiB)


class Stream(io.RawIOBase):
    """The bytes in pieces; counts what was taken, and may be slow, short or broken."""

    def __init__(self, data: bytes, *, pause: float = 0.0, breaks_at: int | None = None) -> None:
        self.data, self.pause, self.breaks_at, self.position = data, pause, breaks_at, 0

    def read(self, size: int = -1) -> bytes:
        time.sleep(self.pause)
        if self.breaks_at is not None and self.position >= self.breaks_at:
            raise FetchFailed(url="the store", reason="the line went dead")
        piece = self.data[self.position : self.position + min(size, 100_000)]
        self.position += len(piece)
        return piece


class Store(OpeningService):
    """A service without local files."""

    def __init__(self, data: bytes = NOISE, **options: Any) -> None:
        self.data, self.options = data, options
        self.streams: list[Stream] = []

    def open(self, image: Image, *, offset: int = 0) -> BinaryIO:
        self.streams.append(Stream(self.data, **self.options))
        return self.streams[-1]  # type: ignore[return-value]


class LocalStore(Store):
    """A service whose file lies on this host."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def local_path(self, image: Image) -> Path | None:
        return self.path


IMAGE = Image("one", name="debian", size=len(NOISE))


def fresh(root: Path) -> Cache:
    return Cache(root, CacheSection())


def left(root: Path) -> set[str]:
    """All that lies there but locks."""
    return {path.name for path in root.iterdir()} - {"locks"}


# --- no space -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_a_base_that_does_not_fit_is_refused_before_anything_is_written(loopfs: LoopFs, kind: str) -> None:
    place = loopfs(kind, size="300M" if kind == "xfs" else "128M")
    store = Store()
    with pytest.raises(NoSpace, match="2 GiB is needed"):
        fresh(place / "cache").get(Image("one", size=2 * GiB), store)
    assert not store.streams
    assert left(place / "cache") == set()


def _write_all(path: Path, leave: int) -> None:
    """Take all space but ``leave`` bytes, and lie about it until it is too late: as another writer would."""
    with path.open("wb") as file:
        facts = os.statvfs(path)
        os.posix_fallocate(file.fileno(), 0, facts.f_bavail * facts.f_frsize - leave)


def test_space_that_ends_in_the_middle_leaves_nothing(loopfs: LoopFs, monkeypatch: pytest.MonkeyPatch) -> None:
    place = loopfs("ext4", size="64M")
    fresh(place / "cache").get(Image("small", size=MiB), Store(NOISE[:MiB]))
    _write_all(place / "others", 2 * MiB)
    monkeypatch.setattr("cowshed.tools.filesystem.check_space", lambda *_: None)
    free = os.statvfs(place).f_bavail
    with pytest.raises(NoSpace):
        fresh(place / "cache").get(IMAGE, Store())
    assert left(place / "cache") == {name_of("small"), name_of("small") + ".json"}
    assert abs(os.statvfs(place).f_bavail - free) < 64
    (place / "others").unlink()
    assert fresh(place / "cache").get(IMAGE, Store()).path.read_bytes() == NOISE


def test_an_export_onto_a_full_disk_leaves_nothing(loopfs: LoopFs, tmp_path: Path) -> None:
    place = loopfs("ext4", size="64M")
    _write_all(place / "others", 4 * MiB)
    disk = tmp_path / "disk"
    disk.write_bytes(NOISE)
    for kind, compress in ((DiskFormat.RAW, False), (DiskFormat.QCOW2, False), (DiskFormat.QCOW2, True)):
        with pytest.raises(NoSpace):
            transfer.export(DiskSource(DiskType.FILE, DiskFormat.RAW, disk), place / "out", kind, compress=compress)
        assert {path.name for path in place.iterdir()} == {"lost+found", "others"}


# --- killed ---------------------------------------------------------------------------------------


def _fetch(root: Path, pause: float) -> None:
    fresh(root).get(IMAGE, Store(pause=pause))


@pytest.mark.parametrize("after", [0.3, 0.6, 0.9])
def test_a_fetch_killed_at_any_moment_can_be_repeated(tmp_path: Path, after: float) -> None:
    root = tmp_path / "cache"
    worker = multiprocessing.get_context("fork").Process(target=_fetch, args=(root, 0.01))
    worker.start()
    time.sleep(after)
    assert worker.pid
    os.kill(worker.pid, signal.SIGKILL)
    worker.join(30)
    assert fresh(root).get(IMAGE, Store()).path.read_bytes() == NOISE
    assert left(root) == {name_of("one"), name_of("one") + ".json"}


def test_who_waits_takes_over_from_a_killed_fetch(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    worker = multiprocessing.get_context("fork").Process(target=_fetch, args=(root, 0.5))
    worker.start()
    while not (root / "locks" / name_of("one")).exists():
        time.sleep(0.01)
    time.sleep(0.1)
    found: list[Path] = []
    waiter = threading.Thread(target=lambda: found.append(fresh(root).get(IMAGE, Store()).path))
    waiter.start()
    time.sleep(0.2)
    assert not found
    worker.kill()
    waiter.join(30)
    assert [path.read_bytes() == NOISE for path in found] == [True]


# --- services that lie ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [len(NOISE) - 1, len(NOISE) + 1])
def test_more_or_fewer_bytes_than_announced_are_an_error(tmp_path: Path, size: int) -> None:
    root = tmp_path / "cache"
    with pytest.raises(FetchFailed, match=str(size)):
        fresh(root).get(Image("one", size=size), Store())
    path = tmp_path / "stored"
    path.write_bytes(NOISE)
    with pytest.raises(DataCorrupt, match=str(size)):
        fresh(root).get(Image("one", size=size), LocalStore(path))
    assert left(root) == set()


def test_a_stream_that_breaks_leaves_nothing(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    with pytest.raises(FetchFailed, match="dead"):
        fresh(root).get(IMAGE, Store(breaks_at=3 * MiB))
    assert left(root) == set()
    assert fresh(root).get(IMAGE, Store()).virtual_size == len(NOISE)


def test_a_hostile_stream_is_not_read_to_its_end(tmp_path: Path) -> None:
    store = Store(b"KDMV" + NOISE[4:])
    with pytest.raises(ImageRejected, match="VMDK"):
        fresh(tmp_path / "cache").get(IMAGE, store)
    assert store.streams[0].position < MiB


def test_an_unknown_kind_of_digest_is_an_error_in_words(tmp_path: Path) -> None:
    image = Image("one", size=len(NOISE), os_hash_algo="md5", os_hash_value="0" * 32)
    with pytest.raises(InvalidRequest, match="md5"):
        fresh(tmp_path / "cache").get(image, Store())


def test_zeros_of_a_stream_take_no_space_and_count_for_the_digest(tmp_path: Path) -> None:
    data = NOISE[:MiB] + bytes(30 * MiB) + NOISE[:512]
    digest = hashlib.sha512(data).hexdigest()
    image = Image("one", size=len(data), os_hash_algo="sha512", os_hash_value=digest)
    base = fresh(tmp_path / "cache").get(image, Store(data))
    assert base.path.read_bytes() == data
    assert base.path.stat().st_blocks * 512 < 3 * MiB


def test_a_sparse_image_needs_the_space_of_its_data_only(loopfs: LoopFs) -> None:
    place = loopfs("ext4", size="64M")
    path = place / "stored"
    with path.open("wb") as file:
        file.truncate(4 * GiB)
        file.write(NOISE)
    base = fresh(place / "cache").get(Image("one", size=4 * GiB), LocalStore(path))
    assert base.virtual_size == 4 * GiB


# --- records --------------------------------------------------------------------------------------


def test_a_hit_with_another_digest_is_an_error(tmp_path: Path) -> None:
    """A base made when nobody asked for a digest does not pass for one that was checked."""
    root = tmp_path / "cache"
    fresh(root).get(IMAGE, Store())
    good = hashlib.sha256(NOISE).hexdigest()
    assert fresh(root).get(Image("one", size=len(NOISE), os_hash_algo="sha256", os_hash_value=good), Store())
    with pytest.raises(DigestMismatch):
        fresh(root).get(Image("one", size=len(NOISE), os_hash_algo="sha256", os_hash_value="0" * 64), Store())


def test_a_shortened_base_is_noticed_when_it_is_used(tmp_path: Path) -> None:
    root = tmp_path / "cache"
    base = fresh(root).get(IMAGE, Store())
    os.chmod(base.path, 0o600)
    os.truncate(base.path, MiB)
    with pytest.raises(DataCorrupt, match=str(MiB)):
        fresh(root).get(IMAGE, Store())


def test_one_damaged_record_stops_neither_listing_nor_sweep(tmp_path: Path) -> None:
    cache = fresh(tmp_path / "cache")
    bad, good = cache.get(IMAGE, Store()), cache.get(Image("two", size=len(NOISE)), Store())
    for content in ("{", "[]", "{}", '{"format": "raw", "virtual_size": {}, "digest": 1}'):
        record = bad.path.with_name(bad.path.name + ".json")
        record.unlink()
        record.write_text(content)
        assert [cached.base for cached in cache.bases()] == [good]
    removed = sweep(cache, set, now=time.time() + 100, max_age=50)
    assert [one.name for one in removed] == [good.path.name]
    assert bad.path.exists()


def test_a_file_without_a_record_stays_until_its_successor_is_ready(tmp_path: Path) -> None:
    """Disks may stand on it: a fetch that fails must not take it away."""
    cache = fresh(tmp_path / "cache")
    path = cache.get(IMAGE, Store()).path
    path.with_name(path.name + ".json").unlink()
    with pytest.raises(FetchFailed):
        fresh(cache.root).get(IMAGE, Store(breaks_at=MiB))
    assert path.read_bytes() == NOISE
    assert fresh(cache.root).get(IMAGE, Store()).path == path
    assert json.loads(path.with_name(path.name + ".json").read_text())["size"] == len(NOISE)


def test_records_whose_base_never_came_are_swept(tmp_path: Path) -> None:
    cache = fresh(tmp_path / "cache")
    base = cache.get(IMAGE, Store())
    base.path.unlink()
    sweep(cache, set, now=time.time(), max_age=10**9)
    assert left(cache.root) == set()
