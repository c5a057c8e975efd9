"""Softly deleted instances: powered off and kept, until they are restored, or removed by hand or by time.

Nobody watches the clock: what is over is reclaimed by the next ``run``, or by who calls :meth:`Deleted.reclaim`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

from cowshed import clock, log
from cowshed.errors import Busy, CowshedError, InstanceNotFound, InvalidState
from cowshed.manager.records import Record
from cowshed.manager.states import check_not_suspended
from cowshed.model.instance import InstanceState, PowerState
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.driver import LibvirtDriver
    from cowshed.manager.instances import Instances

_log = log.logger(__name__)

_OFF = (InstanceState.STOPPED, InstanceState.CRASHED)


class Deleted:
    """``ref`` is an instance: name, UUID, or the beginning of one. Its name stays taken while it is kept."""

    def __init__(self, driver: LibvirtDriver, instances: Instances) -> None:
        self._driver = driver
        self._instances = instances

    def list(self) -> list[Record]:
        """The longest deleted first."""
        return self._instances.soft_deleted()

    def reclaim_time(self, record: Record) -> float | None:
        """When it will be removed, in seconds since the epoch, as the configuration is now; None: not by itself."""
        interval = self._driver.rooms.config.instances.reclaim_interval
        return record.deleted + interval if record.deleted and interval else None

    def soft_delete(self, ref: str) -> Record:
        """Power it off, asking the guest first, and keep all it has; deleted so already is success.

        The intent is recorded before the guest is asked. When that fails or is interrupted the instance is as it was.

        :raises InvalidState: it is suspended, in error, coming or going :raises Conflict: it belongs to another libvirt
        """
        found = self._instances.records.find(ref)
        with self._instances.locked(found.name), Undo() as undo:
            before = self._instances.find(found.uuid)
            record = before
            if before.state != InstanceState.SOFT_DELETED:
                self._instances.check_standing(before, "softly deleted")
                if before.state == InstanceState.ERROR:
                    raise InvalidState(name=before.name, state="in error", action="softly deleted", hint=before.error)
                check_not_suspended(before, "softly deleted", "cowshed stop --force")
                undo.push("note that it is not deleted", self._instances.records.update, before)
                record = dataclasses.replace(
                    before,
                    state=InstanceState.SOFT_DELETED,
                    deleted=clock.current().time(),
                    was_off=before.state in _OFF,
                    error="",
                )
                self._instances.records.update(record, "softly deleted")
            self._driver.soft_delete(record.instance)  # also again: the process that began it may have been killed
        return record

    def restore(self, ref: str) -> Record:
        """Bring it back as it was: on, or off. When it cannot be started it stays deleted.

        :raises InvalidState: it is not softly deleted
        """
        found = self._instances.records.find(ref)
        with self._instances.locked(found.name):
            record = self._instances.find(found.uuid)
            if record.state != InstanceState.SOFT_DELETED:
                raise InvalidState(
                    name=record.name,
                    state=f"{record.state}, not softly deleted",
                    action="restored",
                    hint="cowshed ls --deleted shows those that can be",
                )
            self._instances.check_ours(record)
            boot_log = record.boot_log if record.was_off else self._instances.log_end(record)
            self._driver.undelete(record.instance, power_on=not record.was_off)
            state = InstanceState.STOPPED if record.was_off else InstanceState.RUNNING
            record = dataclasses.replace(record, state=state, deleted=0.0, was_off=False, boot_log=boot_log)
            self._instances.records.update(record, "restored", str(state))
        return self._instances.find(record.uuid)

    def due(self) -> Sequence[Record]:
        """Those whose time is over."""
        now = clock.current().time()
        return [one for one in self.list() if (self.reclaim_time(one) or now + 1) <= now]

    def reclaim(self, ref: str) -> bool:
        """Remove one for good if its time is over; False: it has been restored or removed meanwhile.

        :raises InvalidState: its guest runs all the same: somebody has started it without cowshed
        """
        try:
            found = self._instances.records.find(ref)
            with self._instances.locked(found.name, timeout=0):
                if found.uuid not in [one.uuid for one in self.due()]:
                    return False
                if self._driver.power_states().get(found.uuid) in (PowerState.RUNNING, PowerState.PAUSED):
                    raise InvalidState(
                        name=found.name,
                        state="softly deleted, but runs",
                        action="reclaimed",
                        hint=f"cowshed restore {found.name} keeps it, cowshed rm {found.name} removes it",
                    )
                self._instances.delete(found, "reclaimed")
        except (Busy, InstanceNotFound):
            return False
        return True

    def reclaim_due(self) -> None:
        """As :meth:`reclaim`, all of them; what fails is logged, and tried again the next time."""
        for record in self.due():
            try:
                if self.reclaim(record.uuid):
                    _log.warning("reclaimed %s, which was softly deleted", record.name)
            except CowshedError as error:
                _log.warning("could not reclaim %s: %s", record.name, error)
