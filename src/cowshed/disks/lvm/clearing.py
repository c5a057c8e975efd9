"""What happens to the bytes of a removed volume, in the background.

A volume that must be cleared is first renamed, so that its name is free at once and nobody takes it
for a disk; then it is overwritten, then removed. Whoever holds the lock of the group clears all
there are, also what a killed process has left.

Thin volumes are only removed: overwriting one would take new blocks from the pool and leave the
old ones, and the pool zeroes each block before it hands it out again.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Container
from contextlib import suppress
from pathlib import Path
from typing import Final

from cowshed import clock, log
from cowshed.config import LvmSection
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.disks.lvm.temporary import GONE, name
from cowshed.errors import Busy, CowshedError, Interrupted, NotFound
from cowshed.tools import block, cryptsetup, filesystem, locks, lvm
from cowshed.units import MiB

_log = log.logger(__name__)

_PASSES: Final = 3  # of random bytes, as shred(1) makes
_CHUNK: Final = 4 * MiB
_LOOKS: Final = 5
_PAUSE: Final = 0.2  # seconds


class Clearing:
    """Of one volume group."""

    def __init__(self, group: str, section: LvmSection, lock: Path) -> None:
        self.group = group
        self.section = section
        self._lock = lock
        self._worker: threading.Thread | None = None
        self._asked = False
        self._guard = threading.Lock()
        self.progress: Progress = SILENT

    def dispose(self, volume: lvm.Volume) -> None:
        """It is no disk any more when this returns; what must be cleared is cleared later. Gone already is success.

        :raises Busy: a guest has it open
        """
        if volume.thin or self.section.clear == "none":
            lvm.remove(volume.group, volume.name)
            return
        require_closed(volume)
        with suppress(NotFound):
            if volume.origin:
                lvm.split(volume.group, volume.name)
            lvm.rename(volume.group, volume.name, name(GONE))
            self.start()

    def start(self) -> None:
        """Clear in the background. The process stays until it is done; killed, the next one goes on."""
        with self._guard:
            self._asked = True
            if self._worker is None:
                self._worker = threading.Thread(target=self._work, name=f"clear {self.group}")
                self._worker.start()

    def wait(self) -> None:
        """Until nothing is left of what was disposed of in this process."""
        while worker := self._worker:
            worker.join()

    def _work(self) -> None:
        while self._wanted():
            try:
                self.run(timeout=None)
            except Exception as error:  # noqa: BLE001 - a thread that died would be taken for one that works
                _log.warning("clearing in %s stopped: %s; the next sweep goes on", self.group, error)

    def _wanted(self) -> bool:
        with self._guard:
            wanted, self._asked = self._asked, False
            if not wanted:
                self._worker = None
            return wanted

    def run(self, *, timeout: float | None = 0, progress: Progress | None = None) -> int:
        """Clear and remove every volume that waits for it; how many there were. :raises Busy: another process does

        One that cannot be cleared does not keep the others; its error is raised in the end.
        """
        count = 0
        failed: dict[str, CowshedError] = {}
        with locks.lock(self._lock, timeout=timeout, what=f"clearing in {self.group}"):
            while waiting := [one for one in lvm.volumes(self.group).values() if self._waits(one, failed)]:
                for volume in waiting:
                    try:
                        self._finish(volume, progress or self.progress)
                        count += 1
                    except Interrupted:
                        raise
                    except CowshedError as error:
                        failed[volume.name] = error
        if failed:
            raise next(iter(failed.values()))
        return count

    def sweep(self) -> None:
        with suppress(Busy):  # somebody is at it
            self.run()

    def _waits(self, volume: lvm.Volume, failed: Container[str]) -> bool:
        return volume.ours and volume.name.startswith(GONE) and volume.name not in failed

    def _finish(self, volume: lvm.Volume, progress: Progress) -> None:
        if not volume.thin:
            self._wipe(volume, progress)
        lvm.remove(self.group, volume.name)

    def _wipe(self, volume: lvm.Volume, progress: Progress) -> None:
        node = lvm.node(self.group, volume.name)
        if not volume.active:
            lvm.activate(self.group, volume.name)
        with filesystem.errors_of(node, "clear"):
            if volume.active:  # since the host has started, say: then the node is root's
                block.grant(node)
            fd = block.open_device(node, os.O_WRONLY)
            try:
                self._clear(fd, self._extent(volume), progress)
                os.fsync(fd)
            finally:
                os.close(fd)

    def _extent(self, volume: lvm.Volume) -> int:
        """Bytes to clear. Of an encrypted volume only the header: without its key, the rest is noise already."""
        if "encrypted" in volume.tags:
            return min(volume.size, cryptsetup.HEADER)
        return min(volume.size, self.section.clear_size or volume.size)

    def _clear(self, fd: int, end: int, progress: Progress) -> None:
        progress.phase("clear", end)
        if self.section.clear == "discard":
            with suppress(OSError):  # the storage cannot, and there is nothing else to do
                block.discard(fd, 0, end, progress=progress)
            return
        if self.section.clear == "shred":
            for _ in range(_PASSES):
                _overwrite(fd, end, progress)
        block.zero(fd, 0, end, progress=progress)


def require_closed(volume: lvm.Volume) -> None:
    """LVM renames a volume that a guest has open, which then would be cleared under it; a scanner goes away in a moment.

    :raises Busy: it is open
    """
    found: lvm.Volume | None = volume
    for _ in range(_LOOKS):
        if found is None or not found.open:
            return
        clock.current().sleep(_PAUSE)
        found = lvm.volume(volume.group, volume.name)
    raise Busy(what=f"volume {volume.group}/{volume.name}", holder="a guest or a tool", hint="stop the instance first")


def _overwrite(fd: int, end: int, progress: Progress) -> None:
    for start in range(0, end, _CHUNK):
        progress.check()
        filesystem.write_all(fd, os.urandom(min(_CHUNK, end - start)), start)
    os.fsync(fd)  # or the passes would be one
