"""The content of a file takes the place of an RBD disk, which is there until the new one is complete.

The new one is filled under a name of no disk. Then the old one is renamed to ``<name>.was-rbd``, with
a line of its own in the manifest, the new one gets the name, and the old one is removed. Killed
between the two renames, only the old one is there, under the other name; whoever looks for the disk
then, or replaces it, gives it its name back first.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import clock, log
from cowshed.contract.callbacks import SILENT
from cowshed.disks import manifest
from cowshed.disks.rbd_bases import copied, filled, filling, new_part
from cowshed.disks.recorded import RecordedDisk
from cowshed.errors import Busy, CowshedError, UnsupportedOperation
from cowshed.model.disk import Base
from cowshed.tools import filesystem
from cowshed.tools.rbd import Pool
from cowshed.tools.rbd.pool import WATCHED
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.disks.rbd import RbdBackend

_log = log.logger(__name__)


class RbdReplacing(RecordedDisk):
    """What an RBD disk does to give way to other content."""

    _place: RbdBackend

    @abstractmethod
    def _where(self) -> tuple[Pool, str]:
        """The pool and the image in it."""

    def exists(self) -> bool:
        return self._is_there() or self._is_given_back()

    def _is_there(self) -> bool:
        pool, image = self._where()
        return pool.exists(image)

    def _is_given_back(self) -> bool:
        """Was there one that a killed replacement has left under the other name? Not while one that lives is at it."""
        name = self._aside()
        if not manifest.find(self.directory, name):
            return False
        try:
            with filling(self._place.pool, self.instance, f"disk {self.label}", timeout=0):
                self._settle(self._place.disk(self.instance, name))
                return self._is_there()
        except CowshedError as error:
            _log.info("%s is not there, and %s stays as it is: %s", self.label, name, error)
            return False

    def _delete_aside(self) -> None:
        """With the disk goes an older one, which would be taken for it."""
        if manifest.find(self.directory, self._aside()):
            self._place.disk(self.instance, self._aside()).delete()

    def _aside(self) -> str:
        """The name of the older one meanwhile."""
        return f"{self.name}.was-{self.backend}"

    @abstractmethod
    def _make(self, size: int, base: Base | None, make: Callable[[Pool, str], object]) -> None:
        """The line of the manifest, then the image by ``make``."""

    def replace_with(self, path: Path) -> None:
        """The disk has the content of the raw file ``path``, which stays; there may be an older one, or none.

        An error leaves the older one.

        :raises Busy: somebody has the older one open
        :raises UnsupportedOperation: it is encrypted, and the new one would not be
        """
        with filesystem.errors_of(path, "read"):
            there = path.stat().st_size
        size, aside = self._wanted(there, None), self._place.disk(self.instance, self._aside())
        pool, part = self._place.pool, new_part(self.instance)
        with filling(pool, self.instance, f"disk {self.label}"), Undo() as undo:
            self._settle(aside)
            older = self._replaceable()
            undo.push("remove an unfinished disk", pool.remove, part)
            filled(pool, part, lambda opened: copied(path, size, opened, SILENT))
            if older:
                _wait_until_closed(*self._where(), self.label)
                undo.push("give the older disk its name back", self._settle, aside)
                self._become(aside)
            self._make(size, None, lambda pool, image: pool.rename(part, image))
            undo.drop()
            self._remove_aside(aside)

    def _replaceable(self) -> bool:
        """Is there an older one, which may give way?"""
        if not self.exists():
            return False
        if self._entry().encryption:
            raise UnsupportedOperation(
                subject=f"disk {self.label}",
                operation="be replaced by a file",
                reason="it is encrypted, and the new content would not be",
                hint="delete it first",
            )
        return True

    def _become(self, other: RbdReplacing) -> None:
        """The disk gets the name of ``other``, which nobody has. While that lasts, there is a line for each name."""
        entry = self._entry()
        pool, image = self._where()
        renamed = f"{self.instance}_{other.name}"
        manifest.record(self.directory, replace(entry, name=other.name, location=str(pool.spec(renamed))))
        pool.rename(image, renamed)
        manifest.forget(self.directory, self.name)

    def _settle(self, aside: RbdReplacing) -> None:
        """Of the two that a broken replacement leaves, the one that is the disk gets the name, and is alone."""
        if not manifest.find(self.directory, aside.name):
            return
        if not aside.exists():
            manifest.forget(self.directory, aside.name)
        elif manifest.find(self.directory, self.name) and self._is_there():
            self._remove_aside(aside)
        else:
            aside._become(self)

    def _remove_aside(self, aside: RbdReplacing) -> None:
        """The new one is there; what cannot be removed now has a line, and goes with the next or the instance."""
        try:
            aside.delete()
        except CowshedError as error:
            _log.warning("%s is still there: %s", aside.label, error)


def _wait_until_closed(pool: Pool, image: str, label: str) -> None:
    """A client that died is forgotten after a while. :raises Busy: one that lives has it open"""
    waiting = clock.Deadline(WATCHED, "closing a disk")
    while pool.in_use(image):
        if waiting.passed:
            raise Busy(what=f"disk {label}", holder="a guest", hint="stop the instance first")
        clock.current().sleep(min(1.0, waiting.remaining() or 0.0))
