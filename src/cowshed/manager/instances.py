"""Instances: what a cloud's control plane would do with them.

The intent is recorded before the act (*building*, *deleting*), so that what a killed process left
is found and cleared away by the next one.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import clock, log, undo
from cowshed.errors import Busy, CowshedError, InstanceNotFound, InvalidState
from cowshed.manager import names
from cowshed.manager.groups import Groups
from cowshed.manager.records import Record
from cowshed.manager.request import NewInstance
from cowshed.manager.states import TRANSIENT, States, check_not_suspended
from cowshed.model.disk import IoTune
from cowshed.model.image import Image
from cowshed.model.instance import Ending, InstanceState, RebootType
from cowshed.model.vif import Vif
from cowshed.units import format_duration

if TYPE_CHECKING:
    from cowshed.driver import LibvirtDriver

_log = log.logger(__name__)


class Instances(States):
    """The instances of one state directory, and what is done with them as a whole."""

    def __init__(self, driver: LibvirtDriver, state: Path) -> None:
        super().__init__(driver, state)
        self.groups = Groups(driver, self.records, state)

    # --- come and go --------------------------------------------------------------------------

    def check_free(self, name: str) -> None:
        """Also of what a killed process left of an instance of this name.

        :raises NameTaken: :raises InvalidRequest:
        """
        names.check(name)
        self.recover()
        if self.records.exists(name):
            raise self.records.taken(name)

    def create(self, new: NewInstance, image: Image) -> Record:
        """A running instance, or the host as it was before.

        :param image: it has no id where the instance boots from a volume
        :raises NameTaken: :raises InvalidRequest: and what ``spawn`` raises
        """
        record = Record(
            dataclasses.replace(new.instance, image_ref=image.id),
            new.vifs,
            InstanceState.BUILDING,
            image_name=image.name,
            uri=self.driver.rooms.uri,
            properties=dict(new.properties),
        )
        if self.records.exists(record.name):  # a second look at all, right after check_free's, is of use to nobody else
            self.recover()
        with self.locked(record.name):
            record = self.records.add(record)
            try:
                self._spawn(record, new, image)
                record = _launched(record)
                origin = f"volume {new.root_volume}" if new.root_volume else f"image {image.name or image.id}"
                self.records.update(record, "created", f"from {origin}")
                self.refresh_groups(record.vifs)
            except BaseException as error:
                begun = record.state == InstanceState.BUILDING
                self._abandon(record, whole=begun and isinstance(error, Exception) and undo.is_complete(error))
                raise
        return record

    def _spawn(self, record: Record, new: NewInstance, image: Image) -> None:
        self.driver.spawn(
            None,
            record.instance,
            _with(image, record.properties),
            [],
            new.password,
            network_info=record.vifs,
            block_device_info={"block_device_mapping": new.volumes} if new.volumes else None,
        )

    def _abandon(self, record: Record, *, whole: bool) -> None:
        """Forget an instance that did not come to be; what fails here is left to :meth:`recover`.

        :param whole: the driver has taken back all it did. An interruption may come between a step
            and the note how to take it back, so that there the driver is asked to look everywhere.
        """
        try:
            if not whole:
                self.driver.destroy(None, record.instance, record.vifs)
            self.records.remove(record)
        except CowshedError as error:
            _log.warning("could not clear away %s: %s; the next cowshed run tries again", record.name, error)

    def remove(self, ref: str) -> Record:
        """Stop it and delete all it has; half gone is fine.

        :raises Conflict: it belongs to another libvirt
        :raises InstanceNotFound: also where who had its lock has removed it, or moved it to another host
        """
        found = self.records.find(ref)
        with self.locked(found.name):
            record = self.records.find(found.uuid)
            self.delete(record)
        return record

    def delete(self, record: Record, event: str = "removed") -> None:
        """Whoever calls it has the lock of its name. :raises Conflict: it belongs to another libvirt"""
        self.check_ours(record)
        self.records.update(dataclasses.replace(record, state=InstanceState.DELETING))
        self.driver.destroy(None, record.instance, record.vifs)
        self.records.remove(record, event)
        self.refresh_groups(record.vifs)

    def refresh_groups(self, vifs: Sequence[Vif]) -> None:
        """Rules of others may name the groups that these interfaces have come to, or have left. Where none does, nothing
        changes for the others, however many they are.
        """
        for name in dict.fromkeys(name for vif in vifs for name in vif.groups):
            try:
                if not self.groups.is_named(name):
                    continue
                self.driver.refresh_security_group_rules(name)
            except CowshedError as error:
                _log.warning("members of the group %s are not told of all others: %s", name, error)

    def recover(self) -> None:
        """Finish what killed processes left half done: their locks are free."""
        cleared = False
        for record in self.records.all():
            if record.state not in TRANSIENT:
                continue
            try:
                with self.locked(record.name, timeout=0):
                    current = self.records.find(record.uuid)
                    if current.state in TRANSIENT:
                        _log.warning("clearing away %s, which was left %s", record.name, record.state)
                        self.delete(current)
                        cleared = True
            except (Busy, InstanceNotFound):
                continue  # somebody is at it
            except CowshedError as error:
                _log.warning("could not clear away %s: %s", record.name, error)
        if cleared:
            self.driver.clear_leftovers()

    # --- power --------------------------------------------------------------------------------

    def start(self, ref: str) -> Record:
        """From stopped or suspended; running already is success."""
        with self.changing(ref, "started", InstanceState.RUNNING) as record:
            if record.state == InstanceState.PAUSED:
                raise InvalidState(name=record.name, state="paused", action="started", hint="use cowshed resume")
            self.driver.power_on(None, record.instance, record.vifs)
        return self.find(record.uuid)

    def stop(self, ref: str, *, timeout: float, force: bool = False) -> Record:
        """Ask the guest to shut down, hard after ``timeout`` seconds (at once with ``force``); ``ended`` says which it was.

        :raises InvalidState: it is suspended; its saved memory is dropped only with ``force``
        """
        given: float = 0 if force else timeout
        ended: Ending | None = None
        with self.changing(ref, "stopped", InstanceState.STOPPED, lambda: _how_stopped(record, ended, given)) as record:
            if not force:
                check_not_suspended(record, "stopped", "cowshed stop --force")
            ended = self.driver.switch_off(record.instance, timeout=given, retry_interval=10)
        return dataclasses.replace(self.find(record.uuid), ended=ended)

    def restart(self, ref: str, *, timeout: float | None = None, hard: bool = False) -> Record:
        """Ask the guest to shut down and start it again, reset after ``timeout`` seconds (at once with ``hard``).

        :param timeout: None: as configured for a reboot
        :raises InvalidState: it is suspended; its saved memory is dropped only with ``hard``
        """
        with self.changing(ref, "restarted", InstanceState.RUNNING) as record:
            if not hard:
                check_not_suspended(record, "restarted", "cowshed restart --hard")
            if hard or timeout is None:
                self.driver.reboot(None, record.instance, record.vifs, RebootType.HARD if hard else RebootType.SOFT)
            else:
                self.driver.restart(record.instance, record.vifs, timeout=timeout)
        return self.find(record.uuid)

    def pause(self, ref: str) -> Record:
        with self.changing(ref, "paused", InstanceState.PAUSED) as record:
            self.driver.pause(record.instance)
        return self.find(record.uuid)

    def suspend(self, ref: str) -> Record:
        """Its memory goes to the host's disk."""
        with self.changing(ref, "suspended", InstanceState.SUSPENDED) as record:
            self.driver.suspend(None, record.instance)
        return self.find(record.uuid)

    def resume(self, ref: str) -> Record:
        """From paused or suspended."""
        with self.changing(ref, "resumed", InstanceState.RUNNING) as record:
            if record.state == InstanceState.PAUSED:
                self.driver.unpause(record.instance)
            elif record.state == InstanceState.STOPPED:
                raise InvalidState(name=record.name, state="stopped", action="resumed", hint="use cowshed start")
            else:
                self.driver.resume(None, record.instance, record.vifs)
        return self.find(record.uuid)

    # --- another image ------------------------------------------------------------------------

    def rescue(self, ref: str, image: Image, *, password: str = "") -> Record:
        """Boot from ``image`` with the disks of the instance attached.

        :raises InvalidState: it is rescued already, or suspended
        """
        with self.changing(ref, "rescued", InstanceState.RUNNING, lambda: f"from image {image.name}") as record:
            self.driver.rescue(None, record.instance, record.vifs, image, password)
        return self.find(record.uuid)

    def unrescue(self, ref: str) -> Record:
        """Back to its own disks. :raises InvalidState: it is not rescued"""
        with self.changing(ref, "unrescued", InstanceState.RUNNING) as record:
            if not self.driver.rescued(record.instance):
                raise InvalidState(name=record.name, state="not rescued", action="unrescued")
            self.driver.unrescue(record.instance, record.vifs)
        return self.find(record.uuid)

    def rebuild(
        self, ref: str, image: Image, *, password: str | None = None, preserve_ephemeral: bool = False
    ) -> Record:
        """New disks from ``image``; name, UUID, addresses, volumes and what was asked for it stay (firmware, TPM, buses).

        What was on the old disks is gone.

        :raises InvalidState: it is rescued or suspended :raises DiskTooSmall: its root disk is too small for the image
        """
        with self.changing(ref, "rebuilt", InstanceState.RUNNING, lambda: f"from image {image.name}") as record:
            instance = dataclasses.replace(record.instance, image_ref=image.id)
            image = _with(image, record.properties)
            self.driver.rebuild(
                None, instance, image, [], password, [], None, None, record.vifs, preserve_ephemeral=preserve_ephemeral
            )
            self.records.update(dataclasses.replace(record, instance=instance, image_name=image.name))
        return self.find(record.uuid)

    # --- limits -------------------------------------------------------------------------------

    def limit_disk(
        self, ref: str, disk: str, changes: Mapping[str, int | str], *, clear: bool = False
    ) -> IoTune | None:
        """As the driver's ``limit_disk``; :raises InvalidState: it is coming or going"""
        from cowshed.domain import qos

        with self.holding(ref, "limited") as record:
            before = self.driver.disk_limits(record.instance)
            tune = self.driver.limit_disk(record.instance, disk, changes, clear=clear)
            name = self.driver.show_disk(record.instance, disk).name
            if tune != before.get(name):
                words = [f"{limit} {value}" for limit, value in qos.in_words(qos.values_of(tune)).items()]
                self.records.update(record, "disk limited", f"{name}: {', '.join(words) or 'none'}")
        return tune


def _with(image: Image, properties: Mapping[str, str]) -> Image:
    return dataclasses.replace(image, properties={**image.properties, **properties}) if properties else image


def _how_stopped(before: Record, ended: Ending | None, timeout: float) -> str:
    """:param timeout: seconds the guest had when it was asked; 0: it was not"""
    if before.state == InstanceState.SUSPENDED:
        return "its saved memory is dropped"
    if ended is Ending.SHUT_DOWN:
        return "the guest shut down"
    if ended is Ending.CUT_OFF and timeout and before.state == InstanceState.RUNNING:  # a paused one is not asked
        return f"cut off: the guest did not shut down within {format_duration(timeout)}"
    return ended or ""


def _launched(record: Record) -> Record:
    instance = dataclasses.replace(record.instance, launched_at=clock.current().time())
    return dataclasses.replace(record, instance=instance, state=InstanceState.RUNNING)
