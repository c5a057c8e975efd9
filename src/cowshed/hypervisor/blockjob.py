"""Block jobs: QEMU moves a disk's content while the guest goes on. Waited for by events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final

from cowshed import log
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.domain import element
from cowshed.errors import CowshedError, DeadlineExceeded, HypervisorError
from cowshed.hypervisor.events import EventKind, Watch

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

LOOK: Final = 0.5  # seconds between two looks at how far a job is

_COPY: Final = 2 | 4  # VIR_DOMAIN_BLOCK_COPY_REUSE_EXT | _TRANSIENT_JOB: works on a persistent domain
_PIVOT: Final = 2  # VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT
_COMMIT_ACTIVE: Final = 4  # VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
_BYTES: Final = 1  # VIR_DOMAIN_BLOCK_RESIZE_BYTES
# VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY | _NO_METADATA | _REUSE_EXT. Not _QUIESCE: it waits for the agent without end.
_SNAPSHOT: Final = 16 | 4 | 32


class _Status(IntEnum):
    """virConnectDomainEventBlockJobStatus."""

    COMPLETED = 0
    FAILED = 1
    CANCELED = 2
    READY = 3


class BlockJobs:
    """Jobs on the disks of one running guest. ``disk`` is the target (``vdb``)."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def copy(self, disk: str, destination: str, *, progress: Progress = SILENT) -> None:
        """Copy ``disk`` to ``destination`` (XML of a disk, which is there) and use that from then on.

        Any failure, an interruption too, leaves the guest on the old one.
        """
        start = self._call("copy a disk of", lambda d: d.blockCopy(disk, destination, {}, _COPY))
        with self._job(disk, start, "copy") as watch:
            self._until_ready(watch, disk, progress)
            self._call("switch a disk of", lambda d: d.blockJobAbort(disk, _PIVOT))()
            self._until_gone(watch, disk, progress)

    def commit(self, disk: str, base: str, top: str, *, active: bool, progress: Progress = SILENT) -> None:
        """Write what is in ``top`` (an overlay's path) down into ``base``; ``active``: top is what the guest writes to."""
        flags = _COMMIT_ACTIVE if active else 0
        start = self._call("commit a disk of", lambda d: d.blockCommit(disk, base, None if active else top, 0, flags))
        with self._job(disk, start, "commit") as watch:
            if active:
                self._until_ready(watch, disk, progress)
                self._call("switch a disk of", lambda d: d.blockJobAbort(disk, _PIVOT))()
            self._until_gone(watch, disk, progress)

    def pull(self, disk: str, base: str | None, *, progress: Progress = SILENT) -> None:
        """Take what is between the top layer and ``base`` (None: everything below) into the top layer."""
        if base is None:
            start = self._call("pull a disk of", lambda d: d.blockPull(disk, 0, 0))
        else:
            start = self._call("pull a disk of", lambda d: d.blockRebase(disk, base, 0, 0))
        with self._job(disk, start, "pull") as watch:
            self._until_gone(watch, disk, progress)

    def resize(self, disk: str, size: int) -> None:
        """The guest sees ``size`` bytes from now on."""
        self._call("resize a disk of", lambda d: d.blockResize(disk, size, _BYTES))()

    def capacity(self, disk: str) -> int:
        """Bytes that the guest sees of ``disk``."""
        return self._guest.call("tell the size of a disk of", lambda d: int(d.blockInfo(disk)[0]), repeat=True)

    def snapshot(self, xml: str) -> None:
        """External snapshots of disks as ``xml`` (domainsnapshot) says; their files are there already."""
        self._call("take a snapshot of", lambda d: d.snapshotCreateXML(xml, _SNAPSHOT))()

    # --- waiting ------------------------------------------------------------------------------

    def _call(self, action: str, function: Callable[[Any], object]) -> Callable[[], object]:
        return lambda: self._guest.call(action, function)

    @contextmanager
    def _job(self, disk: str, start: Callable[[], object], what: str) -> Iterator[Watch]:
        """The job runs in the block; leaving with an error, also an interruption, gives it up."""
        with self._guest.watch() as watch:
            start()
            try:
                yield watch
            except BaseException:
                self.give_up(disk, what)
                raise

    def give_up(self, disk: str, what: str) -> None:
        """End a job on ``disk`` where there is one; what fails is logged."""
        try:
            if self._info(disk):
                self._guest.call(f"give up to {what} a disk of", lambda d: d.blockJobAbort(disk, 0))
        except CowshedError as error:
            _log.warning("could not give up to %s %s of %s: %s", what, disk, self._guest.name, error)

    def _info(self, disk: str) -> dict[str, int]:
        """``cur`` and ``end`` in bytes of work; empty when there is no job."""
        return self._guest.call("ask for a job of", lambda d: dict(d.blockJobInfo(disk, 0) or {}), repeat=True)

    def _until_ready(self, watch: Watch, disk: str, progress: Progress) -> None:
        """:raises HypervisorError: the job ended before"""
        for status in self._statuses(watch, disk, progress):
            if status == _Status.READY or (status is None and self._mirror_ready(disk)):
                return
            if status is not None or not self._info(disk):
                raise self._failed(disk, status)

    def _until_gone(self, watch: Watch, disk: str, progress: Progress) -> None:
        for status in self._statuses(watch, disk, progress):
            if status in (_Status.FAILED, _Status.CANCELED):
                raise self._failed(disk, status)
            if status == _Status.COMPLETED or (status is None and not self._info(disk)):
                return

    def _statuses(self, watch: Watch, disk: str, progress: Progress) -> Iterator[_Status | None]:
        """What events say of the job; None now and then, for a look of one's own."""
        done = 0
        progress.phase("copy")
        while True:
            progress.check()
            try:
                event = watch.wait(
                    lambda event: event.kind == EventKind.BLOCK_JOB and event.data["disk"] == disk,
                    timeout=LOOK,
                    what="",
                )
                yield _Status(event.data["status"])
            except DeadlineExceeded:
                info = self._info(disk)
                progress.update(max(0, info.get("cur", done) - done))
                done = max(done, info.get("cur", done))
                yield None

    def _mirror_ready(self, disk: str) -> bool:
        for node in element.parse(self._guest.xml()).iterfind("devices/disk"):
            target, mirror = node.find("target"), node.find("mirror")
            if target is not None and target.get("dev") == disk and mirror is not None:
                return mirror.get("ready") == "yes"
        return False

    def _failed(self, disk: str, status: _Status | None) -> HypervisorError:
        how = "it ended early" if status is None else status.name.lower()
        return HypervisorError(action=f"finish the job on {disk} of {self._guest.name}", reason=how, number=0)
