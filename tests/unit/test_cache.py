"""The cache: one fetch whoever asks, complete or not there, never in another's way."""

from __future__ import annotations

import io
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from cowshed.config import CacheSection
from cowshed.errors import Busy, DataCorrupt, DigestMismatch, ImageRejected
from cowshed.images.cache import Cache, name_of
from cowshed.images.sweep import sweep
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image
from cowshed.units import MiB
from tests.image_services import OpeningService

DATA = (b"a disk" + bytes(506)) * 2048 + bytes(MiB)


class Store(OpeningService):
    """Images in memory; notes each fetch in a file, so that other processes are seen too."""

    def __init__(self, log: Path, *, pause: float = 0.0, data: bytes = DATA) -> None:
        self.log = log
        self.pause = pause
        self.data = data

    def open(self, image: Image, *, offset: int = 0) -> BinaryIO:
        with self.log.open("a") as log:
            log.write(f"{image.id}\n")
        time.sleep(self.pause)
        return io.BytesIO(self.data[offset:])

    @property
    def fetches(self) -> list[str]:
        return self.log.read_text().split() if self.log.exists() else []


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "cache", CacheSection())


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "fetches")


IMAGE = Image("one", name="debian", size=len(DATA))


def files(cache: Cache) -> set[str]:
    return {path.name for path in cache.root.iterdir() if path.is_file()}


def test_a_base_is_fetched_once_and_has_the_classic_name(cache: Cache, store: Store) -> None:
    base = cache.get(IMAGE, store)
    assert base == cache.get(IMAGE, store) == cache.find("one")
    assert base.path.name == name_of("one") == "fe05bcdcdc4928012781a5f1a2a77cbb5398e106"
    assert base.path.read_bytes() == DATA
    assert (base.virtual_size, base.format, base.image_id) == (len(DATA), DiskFormat.RAW, "one")
    assert store.fetches == ["one"]


def test_zeros_of_a_base_are_holes(cache: Cache, store: Store) -> None:
    path = cache.get(IMAGE, store).path
    assert path.stat().st_blocks * 512 < len(DATA) - MiB // 2


def test_a_new_process_finds_it_too(cache: Cache, store: Store) -> None:
    base = cache.get(IMAGE, store)
    assert Cache(cache.root, CacheSection()).get(IMAGE, store) == base
    assert store.fetches == ["one"]


def test_a_base_that_another_process_has_made_anew_is_not_taken_for_the_one_before(cache: Cache) -> None:
    """Of the same size, and nearly always with the same inode."""
    other = Cache(cache.root, CacheSection())
    for content in (b"a", b"b", b"c"):
        made = other.make("template", lambda path, content=content: path.write_bytes(content * 4096))
        assert cache.lookup("template") == made
        with other.removing("template"):
            other.remove("template")


def test_32_threads_cause_one_fetch(cache: Cache, tmp_path: Path) -> None:
    store = Store(tmp_path / "fetches", pause=0.2)
    found: list[object] = []
    threads = [threading.Thread(target=lambda: found.append(cache.get(IMAGE, store))) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 32
    assert len(set(map(repr, found))) == 1
    assert store.fetches == ["one"]


def _get(root: Path, log: Path) -> None:
    Cache(root, CacheSection()).get(IMAGE, Store(log, pause=0.2))


def test_processes_cause_one_fetch(cache: Cache, tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_get, args=(cache.root, tmp_path / "fetches")) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 6
    assert Store(tmp_path / "fetches").fetches == ["one"]


def test_a_slow_fetch_does_not_delay_another_image(cache: Cache, tmp_path: Path) -> None:
    slow = threading.Thread(target=cache.get, args=(IMAGE, Store(tmp_path / "slow", pause=2.0)))
    slow.start()
    time.sleep(0.2)
    began = time.monotonic()
    cache.get(Image("two", size=len(DATA)), Store(tmp_path / "fast"))
    assert time.monotonic() - began < 1.0
    slow.join()


def test_waiting_ends_and_names_the_holder(cache: Cache, tmp_path: Path) -> None:
    slow = threading.Thread(target=cache.get, args=(IMAGE, Store(tmp_path / "slow", pause=1.5)))
    slow.start()
    time.sleep(0.2)
    impatient = Cache(cache.root, CacheSection(lock_timeout=0.1))
    with pytest.raises(Busy, match=f"process {os.getpid()}"):
        impatient.get(IMAGE, Store(tmp_path / "other"))
    slow.join()


def test_a_wrong_digest_leaves_nothing(cache: Cache, store: Store) -> None:
    wrong = Image("one", size=len(DATA), os_hash_algo="sha256", os_hash_value="0" * 64)
    with pytest.raises(DigestMismatch):
        cache.get(wrong, store)
    assert files(cache) == set()
    assert cache.get(IMAGE, store).path.exists()


def test_a_hostile_image_leaves_nothing(cache: Cache, tmp_path: Path) -> None:
    store = Store(tmp_path / "fetches", data=b"KDMV" + bytes(MiB))
    with pytest.raises(ImageRejected):
        cache.get(Image("one", size=MiB), store)
    assert files(cache) == set()


def _killed(root: Path, log: Path) -> None:
    Cache(root, CacheSection()).make(
        "base", lambda path: (path.write_bytes(b"half"), os.kill(os.getpid(), signal.SIGKILL))
    )


def test_a_killed_fetch_is_cleared_away_by_the_next(cache: Cache, tmp_path: Path) -> None:
    worker = multiprocessing.get_context("spawn").Process(target=_killed, args=(cache.root, tmp_path / "log"))
    worker.start()
    worker.join(60)
    assert worker.exitcode == -signal.SIGKILL
    assert cache.lookup("base") is None
    base = cache.make("base", lambda path: path.write_bytes(DATA))
    assert base.path.read_bytes() == DATA
    assert {path.name for path in cache.root.iterdir()} == {"base", "base.json", "locks"}


def test_a_failing_fetch_leaves_nothing_and_can_be_retried(cache: Cache) -> None:
    def fail(path: Path) -> None:
        path.write_bytes(b"half")
        raise OSError("the line went dead")

    with pytest.raises(OSError, match="dead"):
        cache.make("base", fail)
    assert cache.lookup("base") is None
    assert cache.make("base", lambda path: path.write_bytes(DATA)).virtual_size == len(DATA)


def test_a_changed_base_is_found_out(cache: Cache, store: Store) -> None:
    base = cache.get(IMAGE, store)
    cache.verify(base)
    os.chmod(base.path, 0o600)
    with base.path.open("r+b") as file:
        file.seek(MiB // 2)
        file.write(b"?")
    with pytest.raises(DigestMismatch):
        cache.verify(base)


def test_a_damaged_record_is_an_error_not_a_fetch(cache: Cache, store: Store) -> None:
    base = cache.get(IMAGE, store)
    record = base.path.with_name(base.path.name + ".json")
    os.chmod(record, 0o600)
    record.write_text("{")
    with pytest.raises(DataCorrupt):
        Cache(cache.root, CacheSection()).find("one")


def test_a_hit_starts_nothing_and_takes_no_lock(cache: Cache, store: Store) -> None:
    cache.get(IMAGE, store)
    began = time.perf_counter()
    for _ in range(100):
        cache.get(IMAGE, store)
    assert (time.perf_counter() - began) / 100 < 0.002


# --- sweep ----------------------------------------------------------------------------------------


def nobody() -> set[Path]:
    return set()


def swept(cache: Cache, in_use: Callable[[], set[Path]] = nobody, **options: Any) -> list[str]:
    defaults: dict[str, Any] = {"now": time.time() + 100, "max_age": 50}
    return [removed.name for removed in sweep(cache, in_use, **{**defaults, **options})]


def test_old_unused_bases_go(cache: Cache, store: Store) -> None:
    name = cache.get(IMAGE, store).path.name
    assert swept(cache, max_age=1000) == []
    assert swept(cache, dry_run=True) == [name]
    assert cache.find("one")
    assert swept(cache) == [name]
    assert cache.find("one") is None
    assert files(cache) == set()


def test_a_base_in_use_stays_however_old(cache: Cache, store: Store) -> None:
    path = cache.get(IMAGE, store).path
    assert swept(cache, lambda: {path}) == []
    assert swept(cache, lambda: {path}, max_age=10**9, max_size=1) == []


def test_use_is_asked_again_under_the_lock(cache: Cache, store: Store) -> None:
    path = cache.get(IMAGE, store).path
    answers = iter([set(), {path}])
    assert swept(cache, lambda: next(answers)) == []
    assert path.exists()


def test_a_base_that_is_about_to_be_used_stays(cache: Cache, store: Store) -> None:
    name = cache.get(IMAGE, store).path.name
    with cache.using(name):
        assert swept(cache) == []
    assert swept(cache) == [name]


def test_the_budget_takes_the_oldest_first(cache: Cache, store: Store) -> None:
    first = cache.get(IMAGE, store)
    second = cache.get(Image("two", size=len(DATA)), store)
    os.utime(first.path, (1, 1))
    size = second.path.stat().st_blocks * 512
    assert swept(cache, max_age=10**12, max_size=size) == [first.path.name]


def test_lock_files_are_never_removed(cache: Cache, store: Store) -> None:
    name = cache.get(IMAGE, store).path.name
    swept(cache)
    assert (cache.root / "locks" / name).exists()
