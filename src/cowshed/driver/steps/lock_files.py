"""Files of locks that belong to one instance: they go when the instance has gone.

Each lock is made where it is needed (:mod:`.replacing`, :mod:`.transit`, :mod:`.capture_note`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.errors import CowshedError

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)
_OWNED = re.compile(r"(?:replacing|capture|transit)-([0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12})(?:\.\w+)?")


def forget(rooms: Rooms, uuid: str) -> None:
    """Of this instance. What is held stays, and so does what cannot be removed, with a word in the log."""
    _remove(path for path, owner in _owned(rooms) if owner == uuid)


def sweep(rooms: Rooms) -> None:
    """Of all instances that have no directory: what killed processes have left."""
    _remove(path for path, owner in _owned(rooms) if not rooms.directory(owner).exists())


def _owned(rooms: Rooms) -> list[tuple[Path, str]]:
    """With the UUIDs of their instances."""
    place = rooms.state / "locks"
    names = [path for path in place.iterdir() if path.is_file()] if place.is_dir() else []
    return [(path, found[1]) for path in names if (found := _OWNED.fullmatch(path.name))]


def _remove(paths: Iterable[Path]) -> None:
    from cowshed.tools import locks

    for path in paths:
        try:
            locks.remove(path)
        except CowshedError as error:
            _log.warning("the lock file %s is still there: %s", path, error)
