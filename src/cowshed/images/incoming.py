"""An image on its way into the store: a folder nobody sees until it gets its final name.

Whoever fills the folder holds a lock on it which the kernel releases when he dies; a folder
without a holder is a leftover and is removed by whoever comes next. The folder names the image
from the start, so that two callers who want one name do not both download.
"""

from __future__ import annotations

import fcntl
import os
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Final

from cowshed import log
from cowshed.errors import DataCorrupt
from cowshed.images import record
from cowshed.model.image import Image
from cowshed.tools import filesystem

_log = log.logger(__name__)

PREFIX: Final = ".new-"
GONE: Final = ".gone-"
DATA: Final = "data"
RECORD: Final = "image.json"


class Incoming:
    """One image being stored. ``fd`` is its data file, empty and open for reading and writing."""

    def __init__(self, root: Path, image: Image) -> None:
        """Called with the store's lock held."""
        self.image = image
        self._root = root
        self.folder = root / (PREFIX + image.id)
        with filesystem.errors_of(self.folder, "write"):
            self.folder.mkdir(mode=0o700)
            self._lock = _hold(self.folder)
            try:
                self.fd = _create(self.data)
                filesystem.write_atomically(self.folder / RECORD, record.encode(image))
            except BaseException:
                shutil.rmtree(self.folder, ignore_errors=True)
                os.close(self._lock)
                raise

    @property
    def data(self) -> Path:
        return self.folder / DATA

    def adopt(self, path: Path, fd: int) -> None:
        """Take ``path`` (a file of the same file system, open as ``fd``) as the data instead of the empty one."""
        with filesystem.errors_of(self.data, "write"):
            os.rename(path, self.data)
        os.close(self.fd)
        self.fd = os.dup(fd)

    def settle(self, image: Image) -> None:
        """Make data and record durable; only the name is missing then. :raises NoSpace:"""
        with filesystem.errors_of(self.data, "write"):
            os.fchmod(self.fd, 0o400)
            os.fsync(self.fd)
            filesystem.write_atomically(self.folder / RECORD, record.encode(image))
        self.image = image

    def publish(self) -> None:
        """The atomic step, with the store's lock held."""
        with filesystem.errors_of(self.folder, "publish"):
            filesystem.rename(self.folder, self._root / self.image.id)
            filesystem.sync_directory(self._root)

    def discard(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._lock)


def _create(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)


def _hold(folder: Path) -> int:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise
    return fd


def names(root: Path) -> set[str]:
    """Names that images on their way will have; the store's lock is held and leftovers are gone."""
    found = set()
    for folder in root.glob(PREFIX + "*"):
        with suppress(FileNotFoundError, DataCorrupt):
            found.add(record.read(folder / RECORD).name)
    return found


def clean(root: Path) -> int:
    """Remove what killed processes left; the store's lock is held. Returns how many folders went."""
    removed = 0
    for folder in [*root.glob(PREFIX + "*"), *root.glob(GONE + "*")]:
        try:
            lock = _hold(folder)
        except OSError:  # somebody fills it, or it is gone already
            continue
        _log.info("removing the leftover %s", folder)
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)
        removed += 1
    return removed
