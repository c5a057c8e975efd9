"""What state instances are in, and one change of each at a time."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.errors import Busy, Conflict, CowshedError, InvalidState
from cowshed.manager.records import Record, Records
from cowshed.model.instance import InstanceState, PowerState

if TYPE_CHECKING:
    from cowshed.driver import LibvirtDriver

_log = log.logger(__name__)

TRANSIENT = (InstanceState.BUILDING, InstanceState.DELETING)

_STATES = {
    PowerState.RUNNING: InstanceState.RUNNING,
    PowerState.PAUSED: InstanceState.PAUSED,
    PowerState.SHUTDOWN: InstanceState.STOPPED,
    PowerState.NOSTATE: InstanceState.STOPPED,
    PowerState.CRASHED: InstanceState.CRASHED,
    PowerState.SUSPENDED: InstanceState.SUSPENDED,
}
_OFF = (InstanceState.STOPPED, InstanceState.CRASHED, InstanceState.ERROR)
_REBOOTS = ("restarted", "rescued", "unrescued", "rebuilt")
_LOCK_TIMEOUT = 600.0  # seconds; a spawn may fetch an image
_SILENT = 1.0  # seconds of waiting for a lock that nobody is told of


class States:
    """The records of one state directory beside what libvirt says, and a lock of each instance.

    ``tell`` is called with what a person who waits should know; it is logged.
    """

    def __init__(self, driver: LibvirtDriver, state: Path) -> None:
        self.driver = driver
        self.records = Records(state / "cowshed.db")
        self.locks = state / "locks"
        self.tell: Callable[[str], None] = _log.info

    # --- look ---------------------------------------------------------------------------------

    def all(self) -> list[Record]:
        """Every instance with its present state; softly deleted ones are in :class:`Deleted`."""
        records = [record for record in self.records.all() if record.state != InstanceState.SOFT_DELETED]
        if not records:
            return []
        seen = _Seen(self.driver)
        return [self._present(record, seen) for record in records]

    def soft_deleted(self) -> list[Record]:
        """The longest deleted first."""
        kept = [record for record in self.records.all() if record.state == InstanceState.SOFT_DELETED]
        return sorted(kept, key=lambda record: record.deleted)

    def find(self, ref: str) -> Record:
        """:raises InstanceNotFound:"""
        record = self.records.find(ref)
        return self._present(record, _Seen(self.driver))

    def _present(self, record: Record, seen: _Seen) -> Record:
        """What the hypervisor says wins over what was recorded."""
        if record.state in TRANSIENT or record.state == InstanceState.SOFT_DELETED:
            return record
        record = self._waiting(record)
        state = seen.state(record.uuid)
        if state is None:
            return dataclasses.replace(record, state=InstanceState.ERROR, error=self._lost(record))
        return dataclasses.replace(record, state=state, error="", rescued=self.driver.rescued(record.instance))

    def _waiting(self, record: Record) -> Record:
        """With what it waits to be confirmed or reverted. Where that cannot be read, the others are told of all the same."""
        try:
            if not self.driver.resized(record.instance):
                return record
            dest = self.driver.moved_to(record.instance)
        except CowshedError as error:
            _log.warning("whether a resize of %s waits is not known: %s", record.name, error)
            return record
        return dataclasses.replace(record, resized=not dest, moved_to=dest)

    def _lost(self, record: Record) -> str:
        if self._is_elsewhere(record):
            return f"it belongs to libvirt at {record.uri}; this is {self.driver.rooms.uri}"
        return record.error or "libvirt does not know it any more; cowshed start defines it again"

    def _is_elsewhere(self, record: Record) -> bool:
        """Was it made on another libvirt? Two names of one daemon differ too: ask only where it is not found."""
        return bool(record.uri) and record.uri != self.driver.rooms.uri

    def check_ours(self, record: Record) -> None:
        """Never touch the disks of an instance that may run under another libvirt.

        :raises Conflict:
        """
        if self._is_elsewhere(record) and record.uuid not in self.driver.power_states():
            raise Conflict(
                reason=f"instance {record.name} belongs to libvirt at {record.uri}, and this is {self.driver.rooms.uri}",
                hint=f"use cowshed --connect {record.uri}",
            )

    # --- change -------------------------------------------------------------------------------

    @contextmanager
    def locked(self, name: str, *, timeout: float | None = None) -> Iterator[None]:
        """Nobody else changes the instance of this name.

        :param timeout: seconds to wait for who does; None: as long as an image may take to be fetched
        :raises Busy:
        """
        from cowshed.tools import locks

        patience = _LOCK_TIMEOUT if timeout is None else timeout
        first = min(patience, _SILENT)
        path = self.locks / f"instance-{name}"
        lock = functools.partial(locks.lock, path, what=f"instance {name}")
        with ExitStack() as stack:
            stack.callback(self._forget_lock, name, path)  # the last thing, when the lock is free
            try:
                stack.enter_context(lock(timeout=first))
            except Busy as busy:
                if patience == first:
                    raise
                self.tell(f"waiting for another cowshed, which changes {name} ({busy.holder})")
                stack.enter_context(lock(timeout=patience - first))
            yield

    def _forget_lock(self, name: str, path: Path) -> None:
        """Its file, where there is no such instance (any more)."""
        from cowshed.tools import locks

        with suppress(CowshedError):  # it is no more than a file that nobody needs
            if not self.records.exists(name):
                locks.remove(path)

    @contextmanager
    def holding(self, ref: str, action: str) -> Iterator[Record]:
        """Nobody else changes the instance during the block, which leaves its state as it is.

        :param action: what cannot be done to one that is just being made or removed
        :raises InvalidState: also of one that is softly deleted :raises Conflict: it belongs to another libvirt
        """
        found = self.records.find(ref)
        with self.locked(found.name):
            record = self.find(found.uuid)
            self.check_standing(record, action)
            yield record

    @contextmanager
    def changing(self, ref: str, event: str, state: InstanceState, detail: Callable[[], str] = str) -> Iterator[Record]:
        """As :meth:`holding`; after the block, which brought it into ``state``, that and the event are recorded.

        :param event: what happens, such as ``stopped``; it is no event where the instance was in that state already
        :param detail: of the event, asked after the block
        """
        with self.holding(ref, event) as record:
            boot_log = self.log_end(record) if _boots(record, event) else record.boot_log
            yield record
            happened = event if record.state != state or event in _REBOOTS else ""
            record = self.records.find(record.uuid)  # the block may have written what else has changed
            self.records.update(
                dataclasses.replace(record, state=state, error="", boot_log=boot_log), happened, detail()
            )

    def log_end(self, record: Record) -> int:
        """Where what the next boot logs begins."""
        try:
            return self.driver.console_log_path(record.instance).stat().st_size
        except OSError:
            return 0

    def check_standing(self, record: Record, action: str) -> None:
        """:raises Conflict: it belongs to another libvirt :raises InvalidState: it is coming or going, or softly deleted"""
        self.check_ours(record)
        check_kept(record, action)
        if record.state in TRANSIENT:
            raise InvalidState(name=record.name, state=record.state, action=action)


class _Seen:
    """What the driver says of all instances, at about one moment."""

    def __init__(self, driver: LibvirtDriver) -> None:
        self._driver = driver
        self._powers = driver.power_states()

    @functools.cached_property
    def _with_saved_memory(self) -> Collection[str]:
        return self._driver.with_saved_memory()

    def state(self, uuid: str) -> InstanceState | None:
        """None: it is not known. One that is off is suspended where its memory is saved, whoever did that."""
        power = self._powers.get(uuid)
        if power is None:
            return None
        state = _STATES[power]
        return InstanceState.SUSPENDED if state == InstanceState.STOPPED and uuid in self._with_saved_memory else state


def check_kept(record: Record, action: str) -> None:
    """:raises InvalidState: it is softly deleted, and nothing is done with it until it is restored"""
    if record.state == InstanceState.SOFT_DELETED:
        raise InvalidState(
            name=record.name,
            state="softly deleted",
            action=action,
            hint=f"cowshed restore {record.name} brings it back",
        )


def check_not_suspended(record: Record, action: str, otherwise: str) -> None:
    """:param otherwise: the command that does it all the same :raises InvalidState: its saved memory would be lost"""
    if record.state == InstanceState.SUSPENDED:
        raise InvalidState(
            name=record.name,
            state="suspended",
            action=action,
            hint=f"cowshed resume lets it go on; {otherwise} drops its saved memory",
        )


def _boots(record: Record, event: str) -> bool:
    return event in _REBOOTS or (event == "started" and record.state in _OFF)
