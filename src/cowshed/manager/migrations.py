"""Migrations: an instance moves to another host, with its record; resize in place."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from cowshed import log
from cowshed.errors import CowshedError, DeadlineExceeded, HostUnsuitable, Interrupted, InvalidRequest, InvalidState
from cowshed.manager import request
from cowshed.manager.records import Record, encode
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance, InstanceState
from cowshed.units import format_size, parse_size

if TYPE_CHECKING:
    from cowshed.driver import LibvirtDriver
    from cowshed.manager.instances import Instances
    from cowshed.migration.transport import Channel

_log = log.logger(__name__)

_OLD = "old_flavor"  # in the instance's system metadata, while a resize waits for its end


class Migrations:
    """``ref`` is an instance: name, UUID, or the beginning of one; ``dest`` a host as ``[migration]`` reaches it."""

    def __init__(self, driver: LibvirtDriver, instances: Instances) -> None:
        self._driver = driver
        self._instances = instances

    # --- live ---------------------------------------------------------------------------------

    def live(self, ref: str, dest: str) -> dict[str, Any]:
        """Move it while it runs. Done again after the word with the other host broke off, it ends what was begun.

        :returns: ``elapsed`` (s), ``downtime`` (ms) and ``bytes``, where libvirt told
        :raises Interrupted: it was given up, and runs here
        :raises HostUnsuitable: it runs here still, and why
        """
        with self._instances.holding(ref, "migrated") as record:
            # What was broken off is settled before the other host is asked for anything.
            over = self._driver.left_for(record.instance) == dest
            with self._met(record, dest, live=True) as other:
                if over:
                    self._leave(record, dest, other, {})
                    return {}
                return self._move(record, dest, other)

    def _move(self, record: Record, dest: str, other: Channel) -> dict[str, Any]:
        data = self._checked(record, other)
        secret = self._driver.volume_passwords(record.instance)
        data = other.ask("prepare", record=encode(record), data=data, passwords=secret)["data"]
        ended: list[str] = []
        try:
            self._driver.live_migration(
                None, record.instance, dest,
                lambda *_: ended.append("there"),
                lambda *_, migration_status="error": ended.append(migration_status),
                migrate_data=data,
            )  # fmt: skip
        finally:
            if ended != ["there"] and not data.get("open"):
                _take_back(record, other)
        if data.get("open"):
            from cowshed.driver.steps import handing_over

            raise handing_over.unknown(record.name, dest)
        if ended != ["there"]:
            raise _stays(record, dest, ended, data)
        self._leave(record, dest, other, data)
        return dict(data.get("statistics", {}))

    @contextmanager
    def _met(self, record: Record, dest: str, *, live: bool = False) -> Iterator[Channel]:
        """The other host, which answers and is another one.

        :raises InvalidRequest: :raises HostUnsuitable: it is this host :raises ToolFailed: it is not reached
        """
        if self._driver.is_here(dest):
            raise InvalidRequest(
                reason=f"{record.name} is on this host, and {dest} is this host", hint="name another host"
            )
        with self._driver.other_host(dest) as other:
            self._driver.meet(dest, other, live=live)
            yield other

    def _checked(self, record: Record, other: Channel) -> dict[str, Any]:
        facts = {"hypervisor_version": _number(self._driver.rooms.hypervisor.version())}
        found = other.ask("check", record=encode(record), source=facts)["data"]
        try:
            return dict(self._driver.check_can_live_migrate_source(None, record.instance, found))
        finally:
            other.ask("check_cleanup", data=found)

    def _leave(self, record: Record, dest: str, other: Channel, data: Mapping[str, Any]) -> None:
        """It runs there: that host's record first, so that at no moment it has none."""
        other.ask("arrived", record=encode(record), created=record.created)
        driver, instance = self._driver, record.instance
        driver.post_live_migration(None, instance, None, data or None)
        driver.post_live_migration_at_source(None, instance, record.vifs)
        driver.cleanup(None, instance, record.vifs, migrate_data=data)
        self._instances.records.remove(record, "migrated", f"to {dest}")

    # --- cold ---------------------------------------------------------------------------------

    def cold(self, ref: str, dest: str, *, timeout: float) -> None:
        """Stop it, copy its disks, start it there if it ran; what is left here goes when it is there.

        :param timeout: seconds the guest gets to shut down
        :raises CowshedError: it is as it was, unless the word with the other host broke off while it was started there
        """
        with self._instances.holding(ref, "moved") as record:
            with self._met(record, dest):
                pass  # before anything is done to the guest
            ran = record.state == InstanceState.RUNNING
            driver, instance = self._driver, record.instance
            info = driver.migrate_disk_and_power_off(
                None, instance, dest, instance.flavor, record.vifs, timeout=timeout, retry_interval=10
            )
            asked = False
            try:
                with self._met(record, dest) as other:
                    asked = True
                    other.ask("finish", record=encode(record), created=record.created, info=info, power_on=ran)
            except BaseException:
                self._back(record, dest, ran, asked=asked)
                raise
            driver.confirm_migration(None, instance, record.vifs)
            self._instances.records.remove(record, "moved", f"to {dest}")

    def _back(self, record: Record, dest: str, ran: bool, *, asked: bool) -> None:
        """:param asked: to start it there. It may run there then, and is started here only when that host has nothing of it

        :raises HostUnsuitable: that host does not say so
        """
        try:
            with self._driver.other_host(dest) as other:
                other.ask("discard", record=encode(record))
        except CowshedError as error:
            if asked:
                raise HostUnsuitable(
                    reason=f"{record.name} was handed over to {dest}, which does not say that it has nothing of it: {error}",
                    hint=f"see whether it is there (cowshed ls). If it is: cowshed resize {record.name} --confirm; "
                    f"if not, --revert starts it here again",
                ) from error
            _log.warning("what has come of %s is still on %s: %s", record.name, dest, error)
        self._driver.finish_revert_migration(None, record.instance, record.vifs, power_on=ran)

    # --- resize -------------------------------------------------------------------------------

    def resize(
        self,
        ref: str,
        *,
        cpus: int | None = None,
        memory: str | int | None = None,
        disk: str | int | None = None,
        timeout: float = 60.0,
    ) -> Record:
        """Restart it with more or fewer CPUs and memory, or a larger root disk; it waits for confirm or revert.

        :raises DiskTooSmall: a disk is never cut :raises InvalidState: the last resize waits still
        """
        with self._instances.holding(ref, "resized") as record:
            flavor = _changed(record.instance.flavor, cpus, memory, disk)
            if flavor == record.instance.flavor:
                raise InvalidRequest(reason="nothing would change", hint="--cpus, --memory or --disk")
            if disk is not None:
                self._refuse_volume(record)
            ran = record.state == InstanceState.RUNNING
            driver, old, boot_log = self._driver, record.instance, self._instances.log_end(record)
            info = driver.migrate_disk_and_power_off(
                None, old, "localhost", flavor, record.vifs, timeout=timeout, retry_interval=10
            )
            kept = {**old.system_metadata, _OLD: json.dumps(dataclasses.asdict(old.flavor), default=dict)}
            new = dataclasses.replace(old, flavor=flavor, system_metadata=kept)
            asked = dataclasses.replace(record, instance=new, boot_log=boot_log)
            try:
                # The intent first: of a process that is killed here on, confirm and revert find what it was and shall be.
                self._instances.records.update(asked)
                image = driver.remembered_image(new)
                driver.finish_migration(None, None, new, info, record.vifs, image, True, power_on=ran)
            except BaseException:
                try:
                    driver.finish_revert_migration(None, old, record.vifs, power_on=ran)
                finally:
                    self._instances.records.update(record)
                raise
            self._instances.records.update(asked, "resized", _differences(old.flavor, flavor))
        return self._instances.find(record.uuid)

    def confirm(self, ref: str) -> Record:
        """Keep it as it is now. Of a cold move that broke off: on the other host.

        :raises InvalidState: nothing waits for that; or the other host does not have it
        """
        with self._instances.holding(ref, "confirmed") as record:
            self._require_resized(record, "confirmed")
            if dest := self._driver.moved_to(record.instance):
                self._leave_to(record, dest)
                return record
            self._driver.confirm_migration(None, record.instance, record.vifs)
            now = record.instance.flavor
            self._instances.records.update(
                dataclasses.replace(record, instance=_without_old(record.instance)),
                "confirmed",
                _differences(_old_flavor(record.instance) or now, now),
            )
        return self._instances.find(record.uuid)

    def revert(self, ref: str) -> Record:
        """As it was before the resize, or a cold move that broke off; what was written to its disks since is gone.

        :raises InvalidState: also where the other host has it
        """
        with self._instances.holding(ref, "reverted") as record:
            self._require_resized(record, "reverted")
            if dest := self._driver.moved_to(record.instance):
                self._take_from(record, dest)
            now = record.instance.flavor
            before = _old_flavor(record.instance) or now
            instance = dataclasses.replace(_without_old(record.instance), flavor=before)
            # What was moved is off by now, whoever looks: it was switched off for that.
            ran = record.state == InstanceState.RUNNING or self._driver.ran_before(record.instance)
            boot_log = self._instances.log_end(record)
            self._driver.finish_revert_migration(None, instance, record.vifs, power_on=ran)
            self._instances.records.update(
                dataclasses.replace(record, instance=instance, boot_log=boot_log),
                "reverted",
                f"the move to {dest}" if dest else _differences(now, before),
            )
        return self._instances.find(record.uuid)

    def _leave_to(self, record: Record, dest: str) -> None:
        """:raises InvalidState: the disks here may be all there is of it :raises CowshedError: ``dest`` does not say"""
        with self._met(record, dest) as other:
            if not other.ask("has", uuid=record.uuid)["has"]:
                raise InvalidState(
                    name=record.name,
                    state=f"not on {dest}",
                    action="confirmed",
                    hint=f"start it here again: cowshed resize {record.name} --revert",
                )
        self._driver.confirm_migration(None, record.instance, record.vifs)
        self._instances.records.remove(record, "moved", f"to {dest}")

    def _take_from(self, record: Record, dest: str) -> None:
        """What came of it goes there. A host that is not reached is the user's to judge.

        :raises InvalidState: it is an instance of ``dest`` by now
        """
        has = False
        try:
            with self._met(record, dest) as other:
                has = bool(other.ask("has", uuid=record.uuid)["has"])
                if not has:
                    other.ask("discard", record=encode(record))
        except CowshedError as error:
            _log.warning("what has come of %s may still be on %s: %s", record.name, dest, error)
        if has:
            raise InvalidState(
                name=record.name,
                state=f"on {dest} by now",
                action="reverted",
                hint=f"leave it there: cowshed resize {record.name} --confirm",
            )

    def _refuse_volume(self, record: Record) -> None:
        root = next((one for one in self._driver.volumes(record.instance) if one.is_root), None)
        if root:
            raise InvalidRequest(
                reason=f"{record.name} boots from volume {root.id}, and has no root disk to resize",
                hint=f"grow the volume on its storage, then: cowshed volume extend {record.name} {root.target} SIZE",
            )

    def _require_resized(self, record: Record, action: str) -> None:
        if not self._driver.resized(record.instance):
            raise InvalidState(name=record.name, state="not resized", action=action)


def _take_back(record: Record, other: Channel) -> None:
    """What was prepared there. What fails is logged: why the guest stays is what the user must hear."""
    try:
        other.ask("rollback", record=encode(record))
    except (CowshedError, OSError, EOFError) as error:
        _log.warning(
            "what was prepared for %s is still on the other host, until it begins again: %s", record.name, error
        )


def _stays(record: Record, dest: str, ended: list[str], data: Mapping[str, Any]) -> CowshedError:
    if late := data.get("late"):
        return DeadlineExceeded(
            what=f"the migration of {record.name} to {dest} (given up: it runs here as before)",
            seconds=late,
            hint="[migration] completion and stall say how long it may take, at_timeout what happens then",
        )
    if ended == ["cancelled"]:
        return Interrupted(what=f"{record.name} was migrated; it runs here as before")
    why = data.get("error", "the migration was aborted")
    return HostUnsuitable(host=dest, reason=f"{record.name} could not be moved there, and stays here: {why}")


def _number(version: tuple[int, int, int]) -> int:
    return version[0] * 1_000_000 + version[1] * 1000 + version[2]


def _changed(flavor: Flavor, cpus: int | None, memory: str | int | None, disk: str | int | None) -> Flavor:
    return dataclasses.replace(
        flavor,
        vcpus=flavor.vcpus if cpus is None else request.checked_cpus(cpus),
        memory=flavor.memory if memory is None else request.checked_memory(memory),
        root=flavor.root if disk is None else parse_size(disk),
    )


def _differences(old: Flavor, new: Flavor) -> str:
    """For people."""
    words = [f"CPUs {old.vcpus} to {new.vcpus}"] if new.vcpus != old.vcpus else []
    if new.memory != old.memory:
        words.append(f"memory {format_size(old.memory)} to {format_size(new.memory)}")
    if new.root != old.root:
        before, after = (format_size(one.root) if one.root else "image's size" for one in (old, new))
        words.append(f"root disk {before} to {after}")
    return ", ".join(words)


def _old_flavor(instance: Instance) -> Flavor | None:
    """What it had before the resize that waits."""
    text = instance.system_metadata.get(_OLD, "")
    return Flavor(**json.loads(text)) if text else None


def _without_old(instance: Instance) -> Instance:
    kept = {name: value for name, value in instance.system_metadata.items() if name != _OLD}
    return dataclasses.replace(instance, system_metadata=kept)
