"""Sweep: remove the bases that nobody needs. Use is asked for, age and size are the budget."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cowshed import log
from cowshed.errors import Busy
from cowshed.images.cache import FETCHING, LOCKS, RECORD, Cache, CachedBase
from cowshed.tools import filesystem, locks

_log = log.logger(__name__)

_LEFTOVER_AGE = 3600.0  # seconds; younger ones may belong to a fetch that runs


@dataclass(frozen=True, slots=True)
class Removed:
    """``size`` in bytes freed; ``reason`` for people; ``place``: the cache, or the backend that kept it."""

    name: str
    size: int
    reason: str
    place: str = "cache"


def sweep(
    cache: Cache,
    in_use: Callable[[], Collection[Path]],
    *,
    now: float,
    max_age: float,
    max_size: int = 0,
    dry_run: bool = False,
    image_id: str = "",
) -> list[Removed]:
    """Remove unused bases older than ``max_age`` seconds, then the oldest until ``max_size`` is kept.

    :param in_use: paths of the bases that disks name; asked again under the lock of each base
    :param max_size: bytes all bases may hold; 0: no limit
    :param dry_run: say what would go, and remove nothing
    :param image_id: only bases of this image; empty: of all
    """
    if not cache.root.is_dir():
        return []
    used = in_use()
    bases = cache.bases()
    total = sum(cached.allocated for cached in bases)
    removed = []
    for cached in bases:
        if cached.base.path in used or image_id not in ("", cached.base.image_id):
            continue
        reason = _reason(cached, now, max_age, total, max_size)
        if reason and (dry_run or _remove(cache, cached, in_use)):
            removed.append(Removed(cached.name, cached.allocated, reason))
            total -= cached.allocated
    if not dry_run:
        _leftovers(cache, now)
    return removed


def _reason(cached: CachedBase, now: float, max_age: float, total: int, max_size: int) -> str:
    if now - cached.used >= max_age:
        return "unused"
    if max_size and total > max_size:
        return "over budget"
    return ""


def _remove(cache: Cache, cached: CachedBase, in_use: Callable[[], Collection[Path]]) -> bool:
    try:
        with cache.removing(cached.name):
            if cached.base.path in in_use():
                return False
            cache.remove(cached.name)
    except Busy as error:
        _log.info("kept: %s", error)
        return False
    return True


def _leftovers(cache: Cache, now: float) -> None:
    """Temporary files of killed fetches, and records whose base never came, when their lock is free."""
    for record in cache.root.glob(f"[!.]*{RECORD}"):
        name = record.name.removesuffix(RECORD)
        with suppress(Busy), locks.lock(cache.root / LOCKS / name, timeout=0, what=name):
            if not (cache.root / name).exists():
                filesystem.remove_file(record)
    for path in [*cache.root.glob(f".*{filesystem.PART}"), *cache.root.glob(f"{FETCHING}*")]:
        name = path.name.removeprefix(FETCHING) if path.is_dir() else path.name[1:].rsplit(".", 2)[0]
        try:
            with locks.lock(cache.root / LOCKS / name, timeout=0, what=name):
                if now - path.stat().st_mtime < _LEFTOVER_AGE:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    filesystem.remove_file(path)
        except (Busy, FileNotFoundError):
            continue
