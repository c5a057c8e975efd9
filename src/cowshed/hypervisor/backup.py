"""Copies of running guests' disks at one point in time: QEMU's backup job, which pushes them into files.

Seen with libvirt 9.0 and QEMU 7.2: it takes disks of every format and kind of storage, running or paused, several at
one point in time (when the job begins), and leaves the definition alone. The job survives a restart of libvirt.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final
from xml.etree import ElementTree as ET

from cowshed import log
from cowshed.clock import Deadline
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.domain import element
from cowshed.errors import CowshedError, DeadlineExceeded, HypervisorError, InstanceNotFound, InvalidState
from cowshed.hypervisor.events import EventKind, GuestEvent, Watch

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

LOOK: Final = 0.5  # seconds between two looks at how far it is
AWAY: Final = 60.0  # seconds that libvirt may be away in the middle
GIVING_UP: Final = 30.0  # seconds until a job that was told to end must have ended

_REUSE: Final = 1  # VIR_DOMAIN_BACKUP_BEGIN_REUSE_EXTERNAL
_COMPLETED: Final = 1  # VIR_DOMAIN_JOB_STATS_COMPLETED: also forgets them
_BACKUP: Final = 9  # VIR_DOMAIN_JOB_OPERATION_BACKUP
_NONE: Final = 0  # VIR_DOMAIN_JOB_NONE
_DONE: Final = 3  # VIR_DOMAIN_JOB_COMPLETED


class Backup:
    """A copy of some disks of a running guest into qcow2 files, which are there already and as large as the disks::

        with Backup(guest, {"vda": path}) as backup:
            backup.begin()
            backup.finish()

    Leaving the block with an error, also an interruption, ends the job; the guest goes on as before.
    """

    def __init__(self, guest: Guest, targets: Mapping[str, Path]) -> None:
        self._guest = guest
        self._xml = _xml(targets)
        self._begun = False
        self._watch: Watch = guest.watch()

    def __enter__(self) -> Backup:
        self._watch.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is not None and self._begun:
                give_up(self._guest)
        finally:
            self._watch.__exit__(kind, error, trace)

    def begin(self) -> None:
        """The files will hold what is on the disks now.

        :raises InvalidState: it does not run, or another job goes on :raises HypervisorError: QEMU refuses
        """
        _outcome(self._guest)  # that of an earlier job is not ours
        self._begun = True  # also when its answer is lost
        self._guest.call("copy the disks of", lambda d: d.backupBegin(self._xml, None, _REUSE))

    def finish(self, progress: Progress = SILENT) -> None:
        """Until the files are complete. libvirt may restart meanwhile.

        :raises HypervisorError: the copy failed :raises InvalidState: the guest ended
        """
        done, told = 0, False
        while True:
            progress.check()
            self._wait()
            facts = self._guest.patiently(self._facts, Deadline(AWAY, "libvirt is back"))
            if facts.get("operation") == _BACKUP and facts["type"] != _NONE:
                if not told:
                    progress.phase("snapshot", facts.get("disk_total"))
                    told = True
                progress.update(max(0, facts.get("disk_processed", 0) - done))
                done = max(done, facts.get("disk_processed", 0))
                continue
            self._judge(_outcome(self._guest))
            return

    def _facts(self) -> dict[str, Any]:
        return self._guest.call("ask for a job of", lambda d: dict(d.jobStats(0)), repeat=True)

    def _wait(self) -> None:
        """An event only wakes us: it may be a late one of an earlier job."""
        with suppress(DeadlineExceeded):
            self._watch.wait(_is_end, timeout=LOOK, what="")

    def _judge(self, outcome: Mapping[str, Any]) -> None:
        self._begun = False
        if outcome.get("success"):
            return
        if self._guest.ended():
            raise InvalidState(name=self._guest.name, state="not running any more", action="copied")
        raise HypervisorError(
            action=f"copy the disks of {self._guest.name}",
            reason=str(outcome.get("errmsg") or "the job ended early"),
            number=0,
        )


def _is_end(event: GuestEvent) -> bool:
    return event.kind == EventKind.JOB_COMPLETED and event.data.get("operation") == _BACKUP


def _outcome(guest: Guest) -> dict[str, Any]:
    """Of the last job, once; empty when libvirt knows of none."""
    try:
        found = guest.call("ask for a job of", lambda d: dict(d.jobStats(_COMPLETED)))
    except (HypervisorError, InvalidState):
        return {}
    if found.get("operation") != _BACKUP:
        return {}
    return {"success": found.get("type") == _DONE, **found}


def _xml(targets: Mapping[str, Path]) -> str:
    root = ET.Element("domainbackup", {"mode": "push"})
    disks = ET.SubElement(root, "disks")
    for target, path in targets.items():
        disk = ET.SubElement(disks, "disk", {"name": target, "backup": "yes", "type": "file"})
        ET.SubElement(disk, "driver", {"type": "qcow2"})
        ET.SubElement(disk, "target", {"file": str(path)})
    return ET.tostring(root, encoding="unicode")


def files(guest: Guest) -> list[Path]:
    """What a backup writes to now; empty when none goes on."""
    try:
        text = guest.call("ask for a backup of", lambda d: str(d.backupGetXMLDesc(0)), repeat=True)
    except (HypervisorError, InvalidState, InstanceNotFound):  # it has none
        return []
    found = [node.get("file") for node in element.parse(text).iterfind("disks/disk/target")]
    return [Path(file) for file in found if file]


def give_up(guest: Guest) -> None:
    """End the backup that goes on and wait until it has ended; none is success. What fails is logged."""
    deadline = Deadline(GIVING_UP, f"the end of the backup of {guest.name}")
    try:
        with guest.watch() as watch:
            while guest.patiently(lambda: files(guest), deadline):
                deadline.check()
                with suppress(InvalidState):  # it has ended meanwhile
                    guest.call("give up to copy the disks of", lambda d: d.abortJob())
                with suppress(DeadlineExceeded):
                    watch.wait(_is_end, timeout=LOOK, what="")
    except CowshedError as error:
        _log.warning("the backup of %s could not be ended: %s", guest.name, error)
