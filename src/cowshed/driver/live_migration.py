"""Live migration: a running guest goes to another host, and exactly one of the two runs it."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cowshed import log
from cowshed.contract.live_migration import LiveMigration as LiveMigrationContract
from cowshed.contract.types import BlockDevices, NetworkInfo
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import (
    arriving,
    connect,
    filtering,
    launch,
    leaving,
    marks,
    meeting,
    passwords,
    settling,
    transit,
)
from cowshed.driver.steps.leaving import PROBE
from cowshed.driver.steps.settling import Verdict
from cowshed.driver.steps.transit import Phase, Way
from cowshed.errors import CowshedError, HostUnsuitable, InvalidRequest
from cowshed.hypervisor.guest import Guest
from cowshed.migration import data
from cowshed.migration.policy import Monitor
from cowshed.model.instance import Instance, PowerState

if TYPE_CHECKING:
    from cowshed.migration.transport import Channel

_log = log.logger(__name__)

_HOST: Final = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,252}[A-Za-z0-9])?|[0-9a-fA-F:.]+")


class LiveMigration(LiveMigrationContract):
    rooms: Rooms

    # --- checks -------------------------------------------------------------------------------

    def check_can_live_migrate_destination(
        self,
        context: Any,
        instance: Instance,
        src_compute_info: Any,
        dst_compute_info: Any,
        block_migration: bool | None = False,
        disk_over_commit: bool = False,
    ) -> dict[str, Any]:
        """Migrate data; see ``migration.data``.

        :raises NameTaken: a domain of this UUID or name is here
        """
        from cowshed.driver.steps import host_state
        from cowshed.hypervisor import certificates
        from cowshed.tools import filesystem

        rooms = self.rooms
        with log.about(instance.name):
            host_state.refuse_disabled(rooms)
            arriving.recover_one(rooms, instance.uuid)
            arriving.refuse_taken(rooms, instance)
            _check_version(src_compute_info, rooms.hypervisor.version())
            launch.check_memory(instance.flavor.memory)
            free = arriving.available(rooms)
            if block_migration and not disk_over_commit:
                arriving.check_flavor(rooms, instance, free)
            name = f".shared-{secrets.token_hex(16)}"
            filesystem.make_directory(rooms.instances)
            filesystem.write_atomically(rooms.instances / name, b"")
            return data.made(
                filename=name,
                block_migration=block_migration,
                disk_over_commit=disk_over_commit,
                available=free,
                qemu=list(rooms.hypervisor.version()),
                tls_lacks=[str(path) for path in certificates.missing(_certificates(rooms), certificates.OF_TARGET)],
            )

    def check_can_live_migrate_destination_cleanup(self, context: Any, dest_check_data: Any) -> None:
        from cowshed.tools import filesystem

        name = dest_check_data.get("filename") if isinstance(dest_check_data, Mapping) else None
        if isinstance(name, str) and PROBE.fullmatch(name):
            filesystem.remove_file(self.rooms.instances / name)

    def check_can_live_migrate_source(
        self, context: Any, instance: Instance, dest_check_data: Any, block_device_info: BlockDevices = None
    ) -> dict[str, Any]:
        with log.about(instance.name):
            found = data.checked(dest_check_data, *data.OF_TARGET)
            guest = self.rooms.hypervisor.guest(instance.uuid)
            marks.refuse_marked(self.rooms, instance, "migrated")
            if tuple(found["qemu"]) < self.rooms.hypervisor.version():
                raise HostUnsuitable(
                    reason=f"QEMU {_dotted(found['qemu'])} of the destination is older than this host's, "
                    f"{_dotted(self.rooms.hypervisor.version())}",
                    hint="update QEMU there; guests go to newer ones only",
                )
            _check_certificates(self.rooms, found)
            return leaving.described(self.rooms, instance, guest, found)

    # --- the way there ------------------------------------------------------------------------

    def pre_live_migration(
        self,
        context: Any,
        instance: Instance,
        block_device_info: BlockDevices,
        network_info: NetworkInfo,
        disk_info: Any,
        migrate_data: Any = None,
    ) -> dict[str, Any]:
        """:raises HostUnsuitable: this host cannot run the guest; nothing was made"""
        with log.about(instance.name):
            found = data.checked(migrate_data, *data.OF_SOURCE)
            return arriving.prepare(self.rooms, instance, block_device_info, tuple(network_info or ()), found)

    def live_migration(
        self,
        context: Any,
        instance: Instance,
        dest: str,
        post_method: Callable[..., None],
        recover_method: Callable[..., None],
        block_migration: bool = False,
        migrate_data: Any = None,
    ) -> None:
        """What it came to is also in the migrate data: ``statistics``, or ``error``, which is for the caller to say, and
        ``open`` where the other host does not say whether it runs there; then nothing is to be taken back yet.

        :raises InvalidState: it does not run, or is on its way already; nothing was begun, nobody is called
        """
        if not _HOST.fullmatch(dest):
            raise InvalidRequest(reason=f"{dest!r} is no host name")
        found = data.checked(migrate_data, *data.OF_PREPARATION)
        with log.about(instance.name), transit.busy(self.rooms, instance.uuid, Way.OUT):
            guest = self.rooms.hypervisor.guest(instance.uuid)
            leaving.refuse_unmovable(self.rooms, instance, guest)
            found["still"] = leaving.must_stand_still(self.rooms, guest)
            verdict, aborted = self._migrate(instance, guest, dest, found)
        if verdict == Verdict.THERE:
            post_method(context, instance, dest, block_migration, found)
        elif aborted:
            recover_method(context, instance, dest, found, migration_status="cancelled")
        else:
            recover_method(context, instance, dest, found)

    def _migrate(self, instance: Instance, guest: Guest, dest: str, found: dict[str, Any]) -> tuple[Verdict, bool]:
        from cowshed.hypervisor.migrate import Migration

        rooms, aborted, ran = self.rooms, False, guest.state() == PowerState.RUNNING
        if found.get("still") and ran:
            rooms.progress.note(
                f"{guest.name} pauses while it is copied: this QEMU would lose what it writes meanwhile"
            )
        note = {
            "dest": dest,
            "ran": ran,
            "shared": bool(found.get("is_shared_instance_path")),
            "held": bool(found.get("held")),
            "still": bool(found.get("still")),
        }
        transit.note(rooms, instance.uuid, Way.OUT, phase=Phase.LEAVING, **note)
        monitor = rooms.monitors[instance.uuid] = Monitor(leaving.policy(rooms, found))
        try:
            with Migration(guest, leaving.request(rooms, guest, dest, found)) as migration:
                aborted, told = leaving.follow(rooms, guest, migration, monitor)
                if final := migration.final() if migration.error is None else None:
                    found["statistics"] = {
                        "elapsed": final.elapsed,
                        "downtime": final.downtime,
                        "bytes": final.processed,
                    }
                    rooms.progress.update(max(0, final.processed - told))
            if monitor.late:
                found["late"] = monitor.late
            if migration.error:
                found["error"] = str(migration.error)
                _log.info("libvirt says of the migration: %s", migration.error)
        except CowshedError as error:
            found["error"] = str(error)
            _log.info("the migration was not begun: %s", error)
        finally:
            del rooms.monitors[instance.uuid]
        verdict = settling.settle(rooms, instance.uuid, patience=settling.PATIENCE)
        if verdict == Verdict.OPEN:
            found["open"] = True
        return verdict, aborted

    def other_host(self, dest: str) -> AbstractContextManager[Channel]:
        """A word with cowshed on ``dest`` (cowshed's own); see ``[migration] command``."""
        from cowshed.driver.steps import sending

        return sending.channel(self.rooms, dest)

    def is_here(self, dest: str) -> bool:
        """Is ``dest`` this host? (cowshed's own)"""
        return meeting.is_here(self.rooms, dest)

    def meet(self, dest: str, peer: Channel, *, live: bool) -> None:
        """Before anything is begun (cowshed's own). :raises HostUnsuitable: it is this host, or the ways to it part"""
        there = meeting.meet(self.rooms, dest, peer)
        if live:
            meeting.refuse_apart(self.rooms, dest, there)

    def met(self, probe: str) -> dict[str, Any]:
        """What another host is answered that meets this one (cowshed's own)."""
        return meeting.met(self.rooms, probe)

    def volume_passwords(self, instance: Instance) -> dict[str, str]:
        """By volume id: CHAP passwords that only this host keeps, and which go along (cowshed's own)."""
        return passwords.kept(self.rooms, instance)

    def left_for(self, instance: Instance) -> str:
        """The host it has been migrated to and runs on, while it is still known here; "" otherwise (cowshed's own).

        A migration whose driver was killed is settled first.
        """
        settling.recover_one(self.rooms, instance.uuid)
        note = transit.noted(self.rooms, instance.uuid, Way.OUT)
        return str(note.get("dest", "")) if note and note.get("phase") == Phase.GONE else ""

    def live_migration_force_complete(self, instance: Instance) -> None:
        """By post-copy where that is allowed, else by a pause until it is over."""
        from cowshed.hypervisor import migrate

        guest = self.rooms.hypervisor.guest(instance.uuid)
        migrate.require_running(guest, "moved at once")
        if monitor := self.rooms.monitors.get(instance.uuid):
            monitor.forced = True
            return
        if leaving.post_copy(self.rooms, transit.noted(self.rooms, instance.uuid, Way.OUT) or {}):
            migrate.start_post_copy(guest)
        else:
            leaving.pause(guest)

    def live_migration_abort(self, instance: Instance) -> None:
        from cowshed.hypervisor import migrate

        guest = self.rooms.hypervisor.guest(instance.uuid)
        migrate.require_running(guest, "kept here")
        migrate.abort(guest)

    # --- the end ------------------------------------------------------------------------------

    def rollback_live_migration_at_destination(
        self,
        context: Any,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDevices,
        destroy_disks: bool = True,
        migrate_data: Any = None,
    ) -> None:
        """:raises InvalidState: the guest runs here; nothing is removed"""
        with log.about(instance.name):
            arriving.rollback(
                self.rooms, instance, tuple(network_info or ()), block_device_info, destroy_disks=destroy_disks
            )

    def post_live_migration(
        self, context: Any, instance: Instance, block_device_info: BlockDevices, migrate_data: Any = None
    ) -> None:
        with log.about(instance.name):
            try:
                found = data.checked(migrate_data) if migrate_data is not None else {}
                leaving.disconnect(self.rooms, instance, found)
            except CowshedError as error:
                _log.warning("its volumes are not disconnected: %s", error)

    def post_live_migration_at_source(self, context: Any, instance: Instance, network_info: NetworkInfo) -> None:
        with log.about(instance.name):
            filtering.remove(self.rooms, instance, tuple(network_info or ()))
            connect.unplug(self.rooms, tuple(network_info or ()))

    def post_live_migration_at_destination(
        self,
        context: Any,
        instance: Instance,
        network_info: NetworkInfo,
        block_migration: bool = False,
        block_device_info: BlockDevices = None,
    ) -> None:
        """libvirt has defined it here already; it goes on, if it is paused for its packet filters, and its note goes."""
        with log.about(instance.name):
            arriving.taken_over(self.rooms, self.rooms.hypervisor.guest(instance.uuid))


def _check_version(source: Any, here: tuple[int, int, int]) -> None:
    """:raises HostUnsuitable: QEMU here is older than at the source, as far as that is known :raises InvalidRequest:"""
    from cowshed.host.resources import version_number

    found = (source.get("hypervisor_version") if isinstance(source, Mapping) else None) or 0
    if isinstance(found, bool) or not str(found).isdecimal():
        raise InvalidRequest(
            reason=f"hypervisor_version of the source is {found!r:.60}, which is no number (7002000 is 7.2.0)"
        )
    if int(found) > version_number(here):
        raise HostUnsuitable(
            reason=f"its QEMU ({_dotted(here)}) is older than the source's ({found})",
            hint="update QEMU there; guests go to newer ones only",
        )


def _certificates(rooms: Rooms) -> Path | None:
    from cowshed.hypervisor import certificates

    return certificates.directory(rooms.config.migration.certificates)


def _check_certificates(rooms: Rooms, found: Mapping[str, Any]) -> None:
    """libvirt would find out when the guest is on its way. :raises HostUnsuitable:"""
    from cowshed.hypervisor import certificates

    if not rooms.config.migration.tls:
        return
    mine = certificates.missing(_certificates(rooms), certificates.OF_SOURCE)
    for whose, lacks in (("this host", mine), ("the destination", found.get("tls_lacks", []))):
        if lacks:
            raise HostUnsuitable(
                reason=f"{whose} has no certificates for TLS: there is no {', no '.join(str(path) for path in lacks)}",
                hint="put them there, or say in [migration] certificates where they are",
            )


def _dotted(version: Any) -> str:
    return ".".join(str(part) for part in version)
