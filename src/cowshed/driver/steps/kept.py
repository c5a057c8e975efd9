"""Bases that backends keep in their own storage: which there are, and which nobody needs any more."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING

from cowshed import clock, log
from cowshed.contract.storage import BaseKeeping
from cowshed.errors import Busy, CowshedError
from cowshed.model.disk import KeptBase
from cowshed.tools import filesystem

if TYPE_CHECKING:
    from pathlib import Path

    from cowshed.driver.rooms import Rooms
    from cowshed.images.sweep import Removed

_log = log.logger(__name__)

_FOLDER = "kept"  # beside the cached bases: an empty file a kept base, whose time is its last use from this host


def bases(rooms: Rooms) -> Iterator[tuple[str, KeptBase]]:
    """(backend, base); a backend that cannot be asked is logged, and hides no other."""
    for name, backend in rooms.backends.items():
        if not isinstance(backend, BaseKeeping):
            continue
        try:
            found = backend.bases()
        except CowshedError as error:
            _log.warning("the bases of the backend %s are not known: %s", name, error)
            continue
        for base in found:
            yield name, base


def touch(rooms: Rooms, backend: str, name: str) -> None:
    """It was used from this host now."""
    path = _note(rooms, backend, name)
    try:
        os.utime(path)
    except FileNotFoundError:
        filesystem.make_directory(path.parent)
        with filesystem.errors_of(path, "write"):
            path.touch()


def used(rooms: Rooms, backend: str, base: KeptBase) -> float:
    """Seconds since the epoch. One that this host sees for the first time begins to age now."""
    path = _note(rooms, backend, base.name)
    if base.users or not path.exists():
        touch(rooms, backend, base.name)
    return path.stat().st_mtime


def _note(rooms: Rooms, backend: str, name: str) -> Path:
    return rooms.cache.root / _FOLDER / f"{backend}-{name}"


def sweep(rooms: Rooms, *, max_age: float, dry_run: bool = False, image_id: str = "") -> list[Removed]:
    """Remove the bases on which no disk of any host stands, and which this host has not used for ``max_age`` seconds.

    On storage that several hosts share another one may have used it since; it is made again then.

    :param image_id: only bases of this image; empty: of all
    """
    from cowshed.images.sweep import Removed

    now = clock.current().time()
    removed = []
    for backend, base in bases(rooms):
        if image_id not in ("", base.base.image_id):
            continue
        if base.users or now - used(rooms, backend, base) < max_age:
            continue
        if dry_run or _remove(rooms, backend, base):
            removed.append(Removed(base.name, base.allocated, "unused", backend))
    return removed


def _remove(rooms: Rooms, name: str, base: KeptBase) -> bool:
    backend = rooms.backends[name]
    assert isinstance(backend, BaseKeeping)
    try:
        backend.remove_base(base.name)
    except Busy as error:
        _log.info("kept: %s", error)
        return False
    except CowshedError as error:
        _log.warning("could not remove the base %s from %s: %s", base.name, name, error)
        return False
    filesystem.remove_file(_note(rooms, name, base.name))
    return True
