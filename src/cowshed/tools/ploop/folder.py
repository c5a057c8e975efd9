"""A ploop directory being made: whole under its name, or not there."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from collections.abc import Callable
from pathlib import Path

from cowshed.tools import filesystem
from cowshed.tools.filesystem import PART, Publication
from cowshed.tools.ploop.descriptor import FILE

DATA = "root.hds"


class Folder(Publication):
    """Write the data file to ``fd``; :meth:`commit` adds the descriptor and gives the directory its name.

    A killed process leaves a directory ``.<name>.<random>.part``, whose lock the kernel has released
    (see :func:`sweep`).

    :param describe: the descriptor for the finished data file
    """

    def __init__(self, target: Path, describe: Callable[[int], bytes]) -> None:
        self._folder = target.parent / f".{target.name}.{secrets.token_hex(6)}{PART}"
        self._goal, self._describe, self._published = target, describe, False
        self._folder.mkdir(mode=0o711)
        self._lock = -1
        try:
            self._lock = os.open(self._folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            super().__init__(self._folder / DATA, 0o600, replace=False, sync=True, sync_parent=False, unnamed=True)
        except BaseException:
            self._give_up()
            raise

    def commit(self) -> None:
        if self._published:
            return
        super().commit()
        filesystem.write_atomically(self._folder / FILE, self._describe(self.fd), mode=0o644)
        filesystem.rename(self._folder, self._goal)
        self._published = True
        try:
            filesystem.sync_directory(self._goal.parent)
        except OSError:  # a name that may not last is taken back
            shutil.rmtree(self._goal, ignore_errors=True)
            raise

    def close(self) -> None:
        """Without a commit, nothing is left."""
        super().close()
        self._give_up()

    def _give_up(self) -> None:
        if not self._published:
            shutil.rmtree(self._folder, ignore_errors=True)
        if self._lock >= 0:
            os.close(self._lock)


def sweep(target: Path) -> None:
    """Remove what killed processes left of ``target``. The caller lets nobody begin a new one meanwhile."""
    for folder in target.parent.glob(f".{target.name}.*{PART}"):
        try:
            fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except (FileNotFoundError, NotADirectoryError):
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(folder, ignore_errors=True)
        except BlockingIOError:
            pass  # it is being made
        finally:
            os.close(fd)
