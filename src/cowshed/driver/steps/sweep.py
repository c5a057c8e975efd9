"""Clear away what killed processes and unused bases leave behind."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.driver.steps import lock_files, replacing, serial
from cowshed.errors import CowshedError

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)

DELETED = "_del"


def leftovers(rooms: Rooms) -> None:
    """Finish deletions that were interrupted; forget broken downloads, ports and locks whose instance is gone, and
    what the storage of each backend holds half done.
    """
    _instances(rooms)
    backends = [(f"the disk backend {name}", backend.clean) for name, backend in rooms.backends.items()]
    for what, clean in (
        ("the image store", rooms.images.clean),
        ("lock files", lambda: lock_files.sweep(rooms)),
        ("serial ports", lambda: serial.keep_existing(rooms)),
        *backends,
    ):
        try:
            clean()
        except CowshedError as error:
            _log.warning("could not clean %s: %s", what, error)


def _instances(rooms: Rooms) -> None:
    if not rooms.instances.is_dir():
        return
    for path in rooms.instances.glob(f"*{DELETED}"):
        try:
            rooms.directory(path.name.removesuffix(DELETED)).delete()
        except CowshedError as error:
            _log.warning("could not remove %s: %s", path, error)
    for path in _with_disks(rooms):
        try:
            replacing.settle(rooms, path.name)
        except CowshedError as error:
            _log.warning("what a rebuild has left of %s is still there: %s", path.name, error)


def _with_disks(rooms: Rooms) -> list[Path]:
    """The directories of instances that have a manifest; not of those on their way out."""
    from cowshed.disks import manifest

    if not rooms.instances.is_dir():
        return []
    return [
        path
        for path in rooms.instances.iterdir()
        if not path.name.endswith(DELETED) and path.is_dir() and (path / manifest.FILE).exists()
    ]


def bases_in_use(rooms: Rooms) -> set[Path]:
    """Every base that a disk of any instance names. :raises DataCorrupt:"""
    return set(base_users(rooms))


def base_users(rooms: Rooms) -> Counter[Path]:
    """How many disks of any instance name each base, read from the manifests.

    A manifest that cannot be read stops the sweep: not knowing who uses a base is no reason to
    remove it.

    :raises DataCorrupt:
    """
    from cowshed.disks import manifest

    used: Counter[Path] = Counter()
    for directory in _with_disks(rooms):
        found = manifest.load(directory)
        used.update(Path(disk.base_path) for disk in found.disks.values() if disk.base_path)
    return used
