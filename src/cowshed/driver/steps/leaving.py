"""The source of a live migration: what leaves, and how."""

from __future__ import annotations

import base64
import dataclasses
import re
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, ParamSpec

from cowshed import log
from cowshed.contract.storage import Snapshotting
from cowshed.driver.steps import announced, disk_names, locate, moving, passwords, placing, replacing, shares, volumes
from cowshed.errors import (
    Conflict,
    CowshedError,
    HostUnsuitable,
    InvalidRequest,
    InvalidState,
    UnsupportedOperation,
)
from cowshed.migration.policy import Action, Monitor, Policy, Sample
from cowshed.model.host import VirtType
from cowshed.model.instance import Instance, PowerState
from cowshed.units import format_size

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest
    from cowshed.hypervisor.migrate import Migration, Request, Statistics
    from cowshed.model.disk import ManifestDisk

_log = log.logger(__name__)

_P = ParamSpec("_P")

PROBE: Final = re.compile(r"\.shared-[0-9a-f]{32}")
LOOK: Final = 0.2  # seconds between two looks at a migration
RUNS: Final = (PowerState.RUNNING, PowerState.PAUSED)


# --- the check ------------------------------------------------------------------------------------


def described(rooms: Rooms, instance: Instance, guest: Guest, found: dict[str, Any]) -> dict[str, Any]:
    """The migrate data with what the source knows; nothing is changed.

    :raises InvalidRequest: disks shall be copied and are shared, or shall not and are not
    :raises HostUnsuitable: they do not fit there :raises Conflict: :raises UnsupportedOperation: they cannot be moved
    """
    refuse_unmovable(rooms, instance, guest)
    shared = is_shared(rooms, found)
    entries = {} if shared else own(rooms, instance)
    local = {name: one for name, one in entries.items() if not rooms.backend(one.backend).traits.shared}
    places = placing.remembered(rooms, instance)
    copied = {name: places[name].target for name in local if name in places and not disk_names.read_only(name)}
    _check_wish(found.get("block_migration"), copied)
    _check_movable(rooms, instance, {name: local[name] for name in copied})
    _check_room(rooms, instance, found, {name: local[name] for name in copied})
    return {
        **found,
        "is_shared_instance_path": shared,
        "block_migration": bool(copied),
        "disks": [line(one) for one in entries.values()],
        "copied": copied,
        "records": {} if shared else records(rooms, instance),
        "content": _contents(rooms, instance, local),
        "volumes": [volume(one) for one in volumes.recorded(rooms, instance)],
        "ran": guest.state() == PowerState.RUNNING,
        **_machine(guest),
    }


def is_shared(rooms: Rooms, found: dict[str, Any]) -> bool:
    """Is the file that the destination has left in its directory of instances in ours? :raises InvalidRequest:"""
    name = str(found.get("filename", ""))
    if not PROBE.fullmatch(name):
        raise InvalidRequest(reason=f"{name!r} is not a file that shows whether storage is shared")
    return (rooms.instances / name).exists()


def refuse_unmovable(rooms: Rooms, instance: Instance, guest: Guest) -> None:
    """:raises InvalidState: :raises UnsupportedOperation: it shares directories with this host"""
    if guest.state() not in RUNS:
        raise InvalidState(name=instance.name, state="stopped", action="migrated live", hint="move it cold")
    if placing.rescued(rooms, instance.uuid):
        raise InvalidState(name=instance.name, state="rescued", action="migrated", hint="unrescue it first")
    shares.refuse_moving(rooms, instance, guest)


def own(rooms: Rooms, instance: Instance) -> dict[str, ManifestDisk]:
    """Without what killed moves and rebuilds have left."""
    from cowshed.disks import manifest

    entries = manifest.load(rooms.directory(instance.uuid).path).disks
    return {
        name: one for name, one in entries.items() if not (moving.is_left(one) or replacing.is_second(name))
    }  # fmt: skip


def _check_wish(wished: bool | None, copied: dict[str, str]) -> None:
    """Small files that go with the migrate data, or are made again there, are no reason for a block migration."""
    if wished and not copied:
        raise InvalidRequest(reason="its disks are on storage that both hosts see; there is nothing to copy")
    if wished is False and copied:
        raise InvalidRequest(
            reason=f"both hosts do not see {', '.join(sorted(copied))}, and disks shall not be copied",
            hint="ask for a block migration",
        )


def _check_movable(rooms: Rooms, instance: Instance, local: dict[str, ManifestDisk]) -> None:
    for name, entry in local.items():
        disk = rooms.backend(entry.backend).disk(instance.uuid, name)
        if isinstance(disk, Snapshotting) and (points := disk.snapshots()):
            raise Conflict(
                reason=f"the disk {name} of {instance.name} has snapshots that would not move with it: "
                + ", ".join(point.name for point in points),
                hint=f"remove them first: cowshed disk snapshot rm {instance.name} {name} NAME",
            )
        if entry.encryption and not rooms.config.migration.tls:
            raise UnsupportedOperation(
                subject=f"disk {name}",
                operation="be copied to another host",
                reason="it is encrypted, and its content would be sent in plain text",
                hint="set up TLS between the hosts and switch [migration] tls on",
            )


def _check_room(rooms: Rooms, instance: Instance, found: dict[str, Any], local: dict[str, ManifestDisk]) -> None:
    """As far as the destination has said what is free there."""
    over_commit, needed = bool(found.get("disk_over_commit")), dict[str, int]()
    for name, entry in local.items():
        info = rooms.backend(entry.backend).disk(instance.uuid, name).info()
        needed[entry.backend] = needed.get(entry.backend, 0) + (info.allocated if over_commit else info.virtual_size)
    for backend, size in needed.items():
        free = found.get("available", {}).get(backend)
        if free is None:
            raise HostUnsuitable(reason=f"the destination has no disk backend {backend}")
        if size > free:
            raise HostUnsuitable(
                reason=f"its disks need {format_size(size)} on the backend {backend} of the destination, "
                f"where {format_size(max(0, free))} are free",
                hint="free some space there, or choose another host",
            )


def line(entry: ManifestDisk) -> dict[str, Any]:
    """Of the manifest; without its snapshots, which do not come along when content is copied."""
    return whole_line(dataclasses.replace(entry, snapshots=(), snapshot=None))


def whole_line(entry: ManifestDisk) -> dict[str, Any]:
    return dataclasses.asdict(entry)


def records(rooms: Rooms, instance: Instance) -> dict[str, str]:
    """The small files that say how it is started: all but those that are made anew there."""
    from cowshed.disks import manifest
    from cowshed.volumes import record

    place = rooms.directory(instance.uuid).path
    return {
        path.name: path.read_text()
        for path in sorted(place.glob("*.json"))
        if path.name not in (manifest.FILE, record.FILE)
    }


def _contents(rooms: Rooms, instance: Instance, local: dict[str, ManifestDisk]) -> dict[str, str]:
    """Of config drives: nobody can make them again, and QEMU does not copy what it only reads."""
    found = {}
    for name, entry in local.items():
        if not name.startswith(disk_names.CONFIG_DRIVE):
            continue
        path = rooms.directory(instance.uuid).path / entry.location
        if entry.encryption or path.stat().st_size > announced.CONTENT:
            raise UnsupportedOperation(
                subject=f"disk {name}", operation="move to another host", reason="it is encrypted, or too large"
            )
        found[name] = base64.b64encode(zlib.compress(path.read_bytes())).decode()
    return found


def volume(volume: Any) -> dict[str, Any]:
    from cowshed.volumes import record

    return record.entry(volume)


def _machine(guest: Guest) -> dict[str, Any]:
    """What the guest really has, which libvirt may have chosen."""
    from cowshed.domain import element, relocate
    from cowshed.hypervisor import migrate

    node = element.parse(migrate.live_xml(guest))
    return relocate.machine(node)


# --- the move -------------------------------------------------------------------------------------


def request(rooms: Rooms, guest: Guest, dest: str, found: dict[str, Any]) -> Request:
    """:raises DataCorrupt: a disk of the guest is not known there"""
    from cowshed.domain.relocate import relocated
    from cowshed.hypervisor import migrate

    section = rooms.config.migration
    return migrate.Request(
        uri=section.uri.replace("%s", dest),
        address=str(found.get("address") or ""),
        xml=relocated(migrate.live_xml(guest), found["xml"]),
        persistent_xml=relocated(migrate.live_xml(guest, inactive=True), found["xml"]),
        disks=tuple(found["copied"].values()),
        shallow=bool(found.get("shallow")),
        bandwidth=section.bandwidth,
        connections=section.parallel,
        auto_converge=section.auto_converge and not found.get("still"),
        post_copy=post_copy(rooms, found),
        tls=section.tls,
        unsafe=section.unsafe,
        paused=bool(found.get("held")),
        live=not found.get("still"),
    )


def must_stand_still(rooms: Rooms, guest: Guest) -> bool:
    """Would QEMU lose what it writes while it is copied? See ``[migration] translated``."""
    from cowshed.domain import element
    from cowshed.hypervisor import migrate

    translated = element.parse(guest.xml()).get("type") == VirtType.QEMU
    loses = rooms.hypervisor.version() < migrate.KEEPS_WHAT_TRANSLATED_GUESTS_WRITE
    return translated and loses and rooms.config.migration.translated == "pause"


def post_copy(rooms: Rooms, found: dict[str, Any]) -> bool:
    """Not of a guest that arrives paused, or stands still: libvirt refuses both at once; packet filters come first."""
    return rooms.config.migration.post_copy and not found.get("held") and not found.get("still")


def policy(rooms: Rooms, found: dict[str, Any]) -> Policy:
    section = rooms.config.migration
    return Policy(
        downtime=float(section.downtime),
        completion=section.completion,
        stall=section.stall,
        at_timeout=Action(section.at_timeout),
        post_copy=post_copy(rooms, found),
    )


def follow(rooms: Rooms, guest: Guest, migration: Migration, monitor: Monitor) -> tuple[bool, int]:
    """Until it is over, steering. (True: it was given up on purpose, the bytes that the progress has been told of)"""
    from cowshed.hypervisor import migrate

    aborted, done, begun = False, 0, False
    told, memory = 0, False  # the total of which the progress knows, and whether the memory is in it
    while True:
        try:
            if migration.wait(LOOK):
                return aborted, done
            if not aborted:
                rooms.progress.check()
            now = migration.statistics()
            if now is None:
                continue
            if not begun:
                _quietly("set the downtime", migrate.set_downtime, guest, monitor.downtime)
                begun = True
            # At first QEMU does not know it yet, and while disks are copied it knows nothing of the memory.
            if now.total > told and (not told or (now.iteration and not memory)):
                rooms.progress.phase("migrate", now.total - done)
                told, memory = now.total, bool(now.iteration)
            if told:
                rooms.progress.update(max(0, now.processed - done))
                done = max(done, now.processed)
            aborted = _act(guest, monitor, now) or aborted
        except BaseException as error:
            if isinstance(error, CowshedError) and not isinstance(error, _stops()):
                _log.warning("a look at the migration of %s failed: %s", guest.name, error)
                continue
            _log.info("giving up the migration of %s", guest.name)
            aborted = True
            _quietly("abort", migrate.abort, guest)
            if not isinstance(error, Exception | KeyboardInterrupt):
                raise


def _stops() -> tuple[type[CowshedError], ...]:
    from cowshed.errors import Interrupted

    return (Interrupted,)


def _act(guest: Guest, monitor: Monitor, now: Statistics) -> bool:
    """Do what the policy says; True: that was to abort."""
    from cowshed.hypervisor import migrate

    action = monitor.next(Sample(now.elapsed, now.remaining, now.total, now.iteration))
    match action:
        case Action.DOWNTIME:
            _quietly("allow more downtime", migrate.set_downtime, guest, monitor.downtime)
        case Action.POST_COPY:
            try:
                migrate.start_post_copy(guest)
            except CowshedError as error:  # disks are copied still: QEMU has not begun with the memory
                _log.debug("not yet: %s", error)
                monitor.again()
            _quietly("lift the bandwidth", migrate.lift_bandwidth, guest)
        case Action.PAUSE:
            pause(guest)
        case Action.ABORT:
            _log.warning("the migration of %s takes too long; giving up", guest.name)
            _quietly("abort", migrate.abort, guest)
            return True
    return False


def pause(guest: Guest) -> None:
    """It changes no memory any more, so the end is near; at whatever speed the cable gives."""
    from cowshed.hypervisor import migrate

    _quietly("lift the bandwidth", migrate.lift_bandwidth, guest)
    guest.suspend()


def _quietly(what: str, function: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> None:
    try:
        function(*args, **kwargs)
    except CowshedError as error:
        _log.info("could not %s: %s", what, error)


# --- afterwards -----------------------------------------------------------------------------------


def disconnect(rooms: Rooms, instance: Instance, found: dict[str, Any], *, keep_record: bool = False) -> None:
    """The host side of its volumes; what fails is logged. On a shared path the record is the other host's by now.

    :param keep_record: it may come back: also what only this host knows of them (passwords) is kept
    """
    from cowshed.volumes import find

    recorded = volumes.recorded(rooms, instance)
    if not (keep_record or found.get("is_shared_instance_path")):
        return volumes.disconnect_all(rooms, instance, None)
    kept = passwords.kept(rooms, instance) if keep_record else {}
    for volume in recorded or announced.volumes(found):
        if volume.id in kept:
            continue
        try:
            with volumes.held(rooms, volume.id):
                if not _used_here(rooms, instance, volume.id):
                    find(rooms.connectors, volume.connection_info).disconnect(volume.connection_info)
        except CowshedError as error:
            _log.warning("could not disconnect volume %s of %s: %s", volume.id, instance.name, error)


def _used_here(rooms: Rooms, instance: Instance, volume_id: str) -> bool:
    """By another instance of this host: a common directory has those of the other hosts, too."""
    from cowshed.volumes import record

    users = [uuid for uuid in record.users(rooms.instances, volume_id) if uuid != instance.uuid]
    return any(rooms.hypervisor.find(uuid) for uuid in users)


def forget_common_keys(rooms: Rooms, instance: Instance) -> None:
    """This host's keys of disks that the other host uses: it has them under ids of its own. What fails is logged."""
    from cowshed.disks import manifest

    for entry in manifest.load(rooms.directory(instance.uuid).path).disks.values():
        if entry.encryption and rooms.backend(entry.backend).traits.shared:
            try:
                rooms.keys.delete(entry.encryption.key_id)
            except CowshedError as error:
                _log.warning("the key of %s of %s is still here: %s", entry.name, instance.name, error)


def delete_local(rooms: Rooms, instance: Instance, *, shared_path: bool) -> None:
    """What the instance has left here: never what the other host uses.

    :raises CowshedError: the first that failed, after all have been tried
    """
    if shared_path:
        return
    first: CowshedError | None = None
    for backend, disk in locate.disks(rooms, instance.uuid):
        if rooms.backend(backend).traits.shared:
            continue
        try:
            disk.delete()
        except CowshedError as error:
            _log.warning("could not delete %s of %s: %s", disk.name, instance.name, error)
            first = first or error
    if first:
        raise first
    rooms.directory(instance.uuid).delete()
