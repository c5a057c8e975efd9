"""The destination of a live migration: what must be ready before the guest comes, and what goes if it does not."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cowshed import clock, log
from cowshed.driver.steps import (
    announced,
    awaiting,
    bases,
    connect,
    filtering,
    launch,
    leaving,
    locate,
    opening,
    provision,
    right_time,
    serial,
    tpm,
    transit,
    volume_checks,
    volumes,
)
from cowshed.driver.steps.transit import Way
from cowshed.errors import (
    CowshedError,
    HostUnsuitable,
    InstanceNotFound,
    InvalidState,
    NameTaken,
    NoSpace,
    NotFound,
    OperatorError,
)
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.contract.storage import Disk
    from cowshed.driver.rooms import Rooms
    from cowshed.driver.steps.announced import Announced
    from cowshed.hypervisor.guest import Guest
    from cowshed.model.disk import Base, ManifestDisk
    from cowshed.model.volume import AttachedVolume

_log = log.logger(__name__)


PATIENCE: Final = 5.0  # seconds for a process whose other end was killed to notice
_PAUSE: Final = 0.1


# --- before anything is touched -------------------------------------------------------------------


def refuse_taken(rooms: Rooms, instance: Instance) -> None:
    """:raises NameTaken: a domain of this UUID or name is here"""
    for guest in rooms.hypervisor.guests():
        if guest.uuid == instance.uuid:
            taken = f"{instance.name} ({instance.uuid})"
            raise NameTaken(kind="domain", name=taken, hint="the destination has it already, or it was left there")
        if guest.name == instance.name:
            raise NameTaken(
                kind="domain",
                name=instance.name,
                hint="another one on the destination has its name; virsh list --all there shows it",
            )


def available(rooms: Rooms) -> dict[str, int]:
    """Bytes free by backend; one that cannot be asked is left out."""
    found = {}
    for name, backend in rooms.backends.items():
        try:
            found[name] = max(0, backend.capacity().free - rooms.config.host.reserved_disk)
        except CowshedError as error:
            _log.warning("what is free on the backend %s is not known: %s", name, error)
    return found


def check_flavor(rooms: Rooms, instance: Instance, free: dict[str, int]) -> None:
    """What the flavor promises must be free. :raises HostUnsuitable:"""
    flavor, backend = instance.flavor, instance.backend or rooms.config.disks.backend
    needed = flavor.root + flavor.ephemeral + flavor.swap
    if needed > free.get(backend, 0):
        full = NoSpace(place=f"the backend {backend}", needed=needed, free=free.get(backend, 0))
        raise HostUnsuitable(reason=str(full), hint="free some space there, or choose another host") from full


def check_guest(rooms: Rooms, found: dict[str, Any]) -> None:
    """Processor, machine and versions. :raises HostUnsuitable:"""
    from cowshed.hypervisor import migrate

    here = rooms.capabilities
    if found["arch"] != here.arch or found["virt_type"] != here.virt_type:
        raise HostUnsuitable(
            reason=f"the guest runs as {found['arch']} on {found['virt_type']}, this host has {here.arch} on {here.virt_type}"
        )
    machine = found["machine"]
    if machine and here.machines and machine not in {*here.machines, *here.machines.values()}:
        raise HostUnsuitable(reason=f"its QEMU does not have the machine {machine}", hint="update QEMU there")
    if found["cpu"]:
        migrate.check_cpu(
            rooms.hypervisor,
            found["cpu"],
            emulator=str(here.emulator),
            arch=here.arch,
            machine=machine,
            virt_type=here.virt_type,
        )


# --- preparation ----------------------------------------------------------------------------------


def prepare(
    rooms: Rooms, instance: Instance, block_devices: Any, vifs: Sequence[Vif], found: dict[str, Any]
) -> dict[str, Any]:
    """Everything the guest needs here; on failure nothing of it is left.

    :raises InvalidRequest: the migrate data cannot be read
    :raises NameTaken: :raises HostUnsuitable: and what making disks, volumes and interfaces raises
    """
    shared, told = bool(found["is_shared_instance_path"]), announced.read(found)
    recover_one(rooms, instance.uuid)
    refuse_taken(rooms, instance)
    check_guest(rooms, found)
    place = rooms.directory(instance.uuid)
    if place.exists() != shared:
        raise _other_directory(place.path, shared)
    connect.check(rooms, vifs)
    filtering.check(rooms, instance, vifs)
    with ExitStack() as stack, Undo() as undo:
        stack.enter_context(transit.busy(rooms, instance.uuid, Way.IN))  # also while it is taken back
        undo.push("forget that it comes", transit.forget, rooms, instance.uuid, Way.IN)
        held = awaiting.held(rooms, instance, vifs, found)
        transit.note(rooms, instance.uuid, Way.IN, shared=shared, name=instance.name, held=held)
        shallow = False
        if not shared:
            provision.directory(rooms, instance, undo)
            write_records(place.path, told.records)
            shallow = _make_disks(rooms, instance, told, undo)
        else:
            _check_bases(rooms, instance)
        plugged = connect.plug(rooms, vifs, undo)
        undo.push("let libvirt forget its keys", opening.forget_keys, rooms, instance)
        image = locate.remembered_image(rooms, instance)
        if shared:  # the record is the source's as well, whose guest runs: only this host's side goes
            undo.push("disconnect its volumes here", leaving.disconnect, rooms, instance, found)
        wanted = _volumes(block_devices, told.volumes, shared=shared)
        try:
            connected = volumes.connect_all(rooms, instance, wanted, undo)
        except OperatorError as error:  # not what is wrong with the request
            raise volume_checks.not_there(error) from error
        undo.push("give the serial port back", serial.give_back, rooms, instance.uuid)
        xml = launch.assembled(rooms, instance, image, plugged, connected)
        if held:
            stack.enter_context(awaiting.awaited(rooms, instance.uuid))
        rooms.arrivals[instance.uuid] = stack.pop_all()
    return {**found, "xml": xml, "shallow": shallow, "held": held, "address": rooms.config.migration.address}


def _other_directory(path: Path, shared: bool) -> CowshedError:
    if shared:
        return NotFound(kind="instance directory", name=path)
    return NameTaken(kind="instance directory", name=path)


def write_records(place: Path, records: Mapping[str, str]) -> None:
    """:raises InvalidRequest: one is none; nothing was written"""
    from cowshed.tools import filesystem

    announced.check_records(records)
    for name, text in records.items():
        filesystem.write_atomically(place / name, text.encode())


def _check_bases(rooms: Rooms, instance: Instance) -> None:
    """The instance's directory is common; is what its overlays stand on as well?"""
    from cowshed.disks import manifest

    for entry in manifest.load(rooms.directory(instance.uuid).path).disks.values():
        if entry.base_path and not Path(entry.base_path).exists():
            raise HostUnsuitable(
                reason=f"{entry.base_path}, which the disk {entry.name} stands on, is not here",
                hint="let the hosts share the cache directory too",
            )


def _make_disks(rooms: Rooms, instance: Instance, told: Announced, undo: Undo) -> bool:
    """Empty ones for what QEMU will copy; True: overlays on the bases they have at the source, for all that have one."""
    from cowshed.disks import manifest

    copied = [one for one in told.disks if one.name in told.copied]
    known = {one.name: base_here(rooms, one) for one in copied if one.base_path}
    shallow = bool(known) and all(known.values())
    for entry in told.disks:
        rooms.progress.check()
        backend = rooms.backend(entry.backend)
        if backend.traits.shared:
            manifest.record(rooms.directory(instance.uuid).path, entry)
            continue
        disk = backend.disk(instance.uuid, entry.name)
        with provision.taken_back(undo, disk):
            _make_disk(rooms, instance, entry, disk, told, known.get(entry.name) if shallow else None)
    return shallow


def _make_disk(
    rooms: Rooms, instance: Instance, entry: ManifestDisk, disk: Disk, told: Announced, base: Base | None
) -> None:
    if entry.name in told.copied:
        disk.create(entry.virtual_size, base, encrypt=entry.encryption is not None, progress=rooms.progress)
    elif entry.name in told.content:
        content = told.content[entry.name]
        provision.file_of(disk).create_filled(len(content), lambda path: path.write_bytes(content))
    else:
        _from_image(rooms, instance, entry)


def base_here(rooms: Rooms, entry: ManifestDisk) -> Base | None:
    """The same base in the cache of this host: fetched where the image service has it, None if it cannot be had."""
    name = entry.base_name
    base = rooms.cache.lookup(name)
    if base is None and entry.image_id:
        try:
            base = bases.cached(rooms, rooms.backend(entry.backend), rooms.images.show(entry.image_id))
        except CowshedError as error:
            _log.info("the base of %s cannot be had here, so all of the disk is copied: %s", entry.name, error)
    return base if base and entry.base_digest and base.digest == entry.base_digest else None


def _from_image(rooms: Rooms, instance: Instance, entry: ManifestDisk) -> None:
    """What is only read (a kernel, a cdrom) comes from its image again."""
    if not entry.image_id:
        raise HostUnsuitable(reason=f"nothing is known of what the disk {entry.name} was made from")
    backend = rooms.backend(entry.backend)
    disk = backend.disk(instance.uuid, entry.name)
    bases.make(rooms, backend, disk, rooms.images.show(entry.image_id), entry.virtual_size)


def _volumes(block_devices: Any, found: Sequence[AttachedVolume], *, shared: bool) -> Sequence[AttachedVolume]:
    """Where the guest sees them is what the source says; how they are reached, the caller, if it says anything.

    :param shared: they stand in a record that both hosts have, as attached
    """
    from cowshed.driver.steps import mapping
    from cowshed.model.volume import VolumeState
    from cowshed.volumes import info

    state = VolumeState.ATTACHED if shared else VolumeState.CONNECTING
    known = [replace(one, state=state) for one in found]
    asked = {info.volume_id(one.info): one.info for one in mapping.entries(block_devices) or ()}
    return [
        replace(one, connection_info=volumes.merged(one.connection_info, asked.get(one.id, {}))) if asked else one
        for one in known
    ]


# --- afterwards -----------------------------------------------------------------------------------


def taken_over(rooms: Rooms, guest: Guest) -> None:
    """It is here: filtered, running if it ran, and no guest of another host any more. May be repeated.

    :raises CowshedError: its filters are not in force, and it stays paused
    """
    let_go(rooms, guest.uuid)
    awaiting.complete(rooms, guest)
    settled(rooms, guest.uuid)
    right_time.set_right(guest, patience=right_time.CONNECTS)


def settled(rooms: Rooms, uuid: str) -> None:
    """Nothing is expected any more."""
    transit.forget(rooms, uuid, Way.IN)
    let_go(rooms, uuid)


def let_go(rooms: Rooms, uuid: str) -> None:
    if stack := rooms.arrivals.pop(uuid, None):
        stack.close()


def rollback(rooms: Rooms, instance: Instance, vifs: Sequence[Vif], block_devices: Any, *, destroy_disks: bool) -> None:
    """Remove what was prepared. May be repeated, and does nothing where nothing was.

    :raises InvalidState: the guest runs here after all
    """
    note = transit.noted(rooms, instance.uuid, Way.IN)
    if note is None:
        return let_go(rooms, instance.uuid)
    guest = rooms.hypervisor.find(instance.uuid)
    if guest and guest.persistent():
        raise InvalidState(name=instance.name, state="running here", action="taken back", hint="it has arrived")
    if guest:
        guest.destroy()
        guest.wait(PowerState.SHUTDOWN, timeout=30, what=f"{instance.name} off")
    filtering.remove(rooms, instance, vifs)
    connect.unplug(rooms, vifs)
    shared = bool(note.get("shared"))
    if shared:
        leaving.disconnect(rooms, instance, {"is_shared_instance_path": True})
    else:
        volumes.disconnect_all(rooms, instance, block_devices)
        opening.forget_keys(rooms, instance)
        if note.get("cold"):
            leaving.forget_common_keys(rooms, instance)
            tpm.forget_received(rooms, instance.uuid)
        if destroy_disks:
            leaving.delete_local(rooms, instance, shared_path=False)
    serial.give_back(rooms, instance.uuid)
    settled(rooms, instance.uuid)


def recover(rooms: Rooms) -> None:
    """Of what killed processes were to take in: keep what has arrived, remove what has not. What fails is logged."""
    for uuid in transit.each(rooms, Way.IN):
        try:
            recover_one(rooms, uuid)
        except CowshedError as error:
            _log.warning("the migration of %s to this host is left as it is: %s", locate.name(rooms, uuid), error)


def recover_one(rooms: Rooms, uuid: str) -> None:
    """As :func:`recover`; nothing was expected: nothing is done. :raises Busy: somebody is at it :raises CowshedError:"""
    if transit.noted(rooms, uuid, Way.IN) is not None:
        with transit.busy(rooms, uuid, Way.IN, patience=PATIENCE):
            _recover(rooms, uuid)


def _recover(rooms: Rooms, uuid: str) -> None:
    from cowshed.model.flavor import Flavor

    guest = rooms.hypervisor.find(uuid)
    vifs: Sequence[Vif] = ()
    try:
        if guest and _is_coming(guest):
            return  # whoever sends it says how it ended
        if guest and awaiting.arrived(rooms, uuid):
            _log.info("%s has arrived", guest.name)
            return taken_over(rooms, guest)
        vifs = locate.remembered_vifs(rooms, guest) if guest else ()
    except InstanceNotFound:
        _log.info("%s was given up this moment, and libvirt has removed it", uuid)
    name = (transit.noted(rooms, uuid, Way.IN) or {}).get("name", uuid)
    _log.warning("removing what was prepared for %s, which did not come", name)
    rollback(rooms, Instance(uuid, name, Flavor()), vifs, None, destroy_disks=True)


def _is_coming(guest: Guest) -> bool:
    """Still, after a while: where the source has just given it up, libvirt needs a moment to end it here."""
    from cowshed.hypervisor import migrate

    deadline = clock.Deadline(PATIENCE, f"the end of the migration of {guest.name}")
    while migrate.running(guest) is not None:
        if deadline.passed:
            return True
        clock.current().sleep(_PAUSE)
    return False
