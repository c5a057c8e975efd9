"""Take in the disks of a stopped instance from another host: the other end of ``sending``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cowshed import log
from cowshed.contract.storage import Importing, Sealing
from cowshed.driver.steps import (
    announced,
    arriving,
    host_state,
    launch,
    leaving,
    nvram,
    passwords,
    provision,
    taking,
    tpm,
    transit,
    volume_checks,
)
from cowshed.driver.steps.sending import OVERLAY, RAW, RESEALED, SEALED, THERE, may_be_sealed
from cowshed.driver.steps.transit import Way
from cowshed.errors import (
    CowshedError,
    HostUnsuitable,
    InvalidRequest,
    NameTaken,
    NoSpace,
    UnsupportedOperation,
)
from cowshed.migration import cold, shape
from cowshed.model.disk import Base, DiskFormat, ManifestDisk
from cowshed.model.instance import Instance
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.migration.transport import Channel
    from cowshed.model.volume import AttachedVolume

_log = log.logger(__name__)

RECEIVED: Final = ".received"  # beside the disks: which host has taken them in


def receive(rooms: Rooms, instance: Instance, offer: Mapping[str, Any], peer: Channel) -> None:
    """Answer how each disk shall come, then take it; on any failure nothing is left.

    :raises InvalidRequest: what the other host says cannot be read; nothing was done
    :raises NameTaken: :raises NoSpace: :raises HostUnsuitable: before anything is sent
    """
    entries, found = _read(offer)
    host_state.refuse_disabled(rooms)
    _check_arch(rooms, offer["arch"])
    launch.check_memory(offer["memory"])
    arriving.recover_one(rooms, instance.uuid)
    arriving.refuse_taken(rooms, instance)
    place, shared = rooms.directory(instance.uuid), _is_shared(rooms, instance, offer["probe"])
    if place.exists() and not shared:
        _make_room(rooms, instance)
    known = {} if shared else {name: arriving.base_here(rooms, one) for name, one in entries.items() if one.base_path}
    modes = {name: THERE if shared else _mode(rooms, instance, one, known.get(name)) for name, one in entries.items()}
    bases = sorted(
        {
            entries[name].base_name
            for name, mode in modes.items()
            if mode in (OVERLAY, SEALED) and name in known and not known[name]
        }
    )
    tpm.check_comes(rooms, instance, offer["tpm"])
    coming = {name: offer["bases"].get(name, 0) for name in bases}
    _check_room(rooms, entries, modes, offer["allocated"], coming)
    _check_volumes(rooms, instance, found, offer["passwords"])
    wanted = _wanted_keys(rooms, entries, shared)
    peer.say({"shared": shared, "modes": modes, "bases": bases, "keys": wanted})
    told = peer.hear()
    cold.check_last(told)
    if shared:
        with Undo() as undo:
            passwords.keep(rooms, found, offer["passwords"], undo)
            return tpm.unpack(rooms, instance.uuid, told["tpm"])
    _take(rooms, instance, entries, modes, bases, known, cold.keys(told, wanted), found, {**offer, **told}, peer)


def _read(offer: Mapping[str, Any]) -> tuple[dict[str, ManifestDisk], list[AttachedVolume]]:
    """Its disks by name, and its volumes. :raises InvalidRequest: with the name of what is wrong"""
    from cowshed.disks import manifest
    from cowshed.volumes import record

    cold.check_offer(offer)
    announced.check_records(offer["records"])
    disks = shape.lines("disks", offer["disks"], manifest.disk, cold.OFFER)
    return {one.name: one for one in disks}, shape.lines("volumes", offer["volumes"], record.volume, cold.OFFER)


def _make_room(rooms: Rooms, instance: Instance) -> None:
    """There is no domain; the other host has the instance whole, whatever came of it before.

    :raises NameTaken: what is here did not come from another host
    """
    if not _was_received(rooms, instance):
        raise NameTaken(kind="instance directory", name=rooms.directory(instance.uuid).path)
    _log.warning("removing what came of %s before: it was given up, or nobody heard that it had come", instance.name)
    discard(rooms, instance)


def _check_arch(rooms: Rooms, arch: str) -> None:
    """What is on its disks is for one kind of processor. :raises HostUnsuitable:"""
    here = rooms.capabilities.arch
    if arch != here:
        raise HostUnsuitable(
            reason=f"it runs on {arch}, the destination is {here}", hint="move it to a host of its architecture"
        )


def _wanted_keys(rooms: Rooms, entries: Mapping[str, ManifestDisk], shared: bool) -> list[str]:
    """The disks whose keys must come. Where the manifest is common, its keys must be.

    :raises NotFound: a common manifest names a key that is not here
    """
    sealed = {name: one.encryption for name, one in entries.items() if one.encryption}
    if not shared:
        return list(sealed)
    for encryption in sealed.values():
        rooms.keys.get(encryption.key_id)
    return []


def _is_shared(rooms: Rooms, instance: Instance, probe: str) -> bool:
    if not leaving.PROBE.fullmatch(probe):
        raise InvalidRequest(reason=f"{probe!r} is not a file that shows whether storage is shared")
    return (rooms.directory(instance.uuid).path / probe).exists()


def _mode(rooms: Rooms, instance: Instance, entry: ManifestDisk, base: Base | None) -> str:
    """:raises UnsupportedOperation: this host cannot have such a disk"""
    from cowshed.disks.file import FileBackend

    backend = rooms.backend(entry.backend)
    if backend.traits.shared:
        return THERE
    stands = not entry.base_path or base is not None or _may_adopt(rooms, entry)
    if entry.encryption and isinstance(backend.disk(instance.uuid, entry.name), Sealing):
        return RESEALED
    if entry.encryption:
        if not (may_be_sealed(entry) and isinstance(backend, FileBackend) and stands):
            raise UnsupportedOperation(
                subject=f"the encrypted disk {entry.name}",
                operation="be taken in",
                reason="its base cannot be had here" if not stands else f"the backend {entry.backend} cannot do that",
            )
        return SEALED
    if entry.format == DiskFormat.QCOW2 and (entry.base_path or entry.snapshots) and stands:
        return OVERLAY
    if entry.snapshots:
        raise UnsupportedOperation(
            subject=f"the disk {entry.name} with its snapshots",
            operation="be taken in",
            reason="its base cannot be had here, and without it they would not come along",
            hint="remove the snapshots first",
        )
    if not isinstance(backend.disk(instance.uuid, entry.name), Importing):
        raise UnsupportedOperation(
            subject=f"backend {entry.backend}", operation="take over a disk", reason="it has no way to"
        )
    return RAW


def _may_adopt(rooms: Rooms, entry: ManifestDisk) -> bool:
    """Is there room in the cache for the base under its name? Another one of that name stays, and the disk comes whole."""
    known = bool(entry.base_digest) and entry.base_format == DiskFormat.RAW
    return known and rooms.cache.lookup(entry.base_name) is None


def _check_room(
    rooms: Rooms,
    entries: Mapping[str, ManifestDisk],
    modes: Mapping[str, str],
    sizes: Mapping[str, int],
    bases: Mapping[str, int],
) -> None:
    """``sizes`` by disk; ``bases`` come first, into a cache that is where the disks on them are."""
    needed: dict[str, int] = {}
    left = dict(bases)
    for name, entry in entries.items():
        if modes[name] != THERE:
            size = sizes.get(name, entry.virtual_size) + left.pop(entry.base_name, 0)
            needed[entry.backend] = needed.get(entry.backend, 0) + size
    free = arriving.available(rooms)
    for backend, size in needed.items():
        if size > free.get(backend, 0):
            full = NoSpace(place=f"the backend {backend} of the destination", needed=size, free=free.get(backend, 0))
            raise HostUnsuitable(reason=str(full), hint="free some space there, or choose another host")


def _check_volumes(
    rooms: Rooms, instance: Instance, found: Sequence[AttachedVolume], secret: Mapping[str, str]
) -> None:
    """Before the instance is stopped there. :raises HostUnsuitable: a volume of it is not to be had here"""
    from cowshed.volumes import find

    for known in found:
        try:
            volume_checks.refuse_shared(rooms, instance, known.connection_info)
            info = passwords.added(known.connection_info, secret.get(known.id))
            find(rooms.connectors, info).look(info)
        except CowshedError as error:
            raise volume_checks.not_there(error, f"volume {known.id}") from error


def _take(
    rooms: Rooms,
    instance: Instance,
    entries: Mapping[str, ManifestDisk],
    modes: Mapping[str, str],
    bases: list[str],
    known: dict[str, Base | None],
    keys: Mapping[str, bytes],
    found: Sequence[AttachedVolume],
    offer: Mapping[str, Any],
    peer: Channel,
) -> None:
    from cowshed.tools import filesystem

    directory = rooms.directory(instance.uuid).path
    with transit.busy(rooms, instance.uuid, Way.IN), Undo() as undo:
        undo.push("forget that it comes", transit.forget, rooms, instance.uuid, Way.IN)
        transit.note(rooms, instance.uuid, Way.IN, shared=False, name=instance.name, cold=True)
        for name in bases:
            adopted = _adopt(rooms, name, entries, peer)
            known.update({disk: adopted for disk, one in entries.items() if one.base_name == name})
        provision.directory(rooms, instance, undo)
        filesystem.write_atomically(directory / RECEIVED, _me(rooms))
        undo.push("forget the keys of what stays where it is", leaving.forget_common_keys, rooms, instance)
        arriving.write_records(directory, offer["records"])
        nvram.unpack(directory, offer["nvram"])
        undo.push("remove what its TPM remembers", tpm.forget_received, rooms, instance.uuid)
        tpm.unpack(rooms, instance.uuid, offer["tpm"])
        for name, entry in entries.items():
            if modes[name] == THERE:
                taking.stays(rooms, directory, entry, keys)
                continue
            base = known.get(name)
            with provision.taken_back(undo, rooms.backend(entry.backend).disk(instance.uuid, name)):
                if modes[name] == SEALED:
                    taking.sealed(rooms, directory, entry, base, keys[name], peer)
                elif modes[name] == RESEALED:
                    taking.resealed(rooms, instance, entry, keys[name], peer)
                elif modes[name] == OVERLAY and (base or not entry.base_path):
                    taking.overlay(directory, entry, base, peer)
                else:
                    taking.raw(rooms, instance, entry, peer)
        passwords.keep(rooms, found, offer["passwords"], undo)
        _remember_volumes(directory, found)
    transit.forget(rooms, instance.uuid, Way.IN)


def _adopt(rooms: Rooms, name: str, entries: Mapping[str, ManifestDisk], peer: Channel) -> Base:
    entry = next(one for one in entries.values() if one.base_name == name)
    size = entry.virtual_size  # a base is never larger than what stands on it
    told = Base(
        rooms.cache.root / name,
        entry.base_format or DiskFormat.RAW,
        0,
        digest=entry.base_digest or "",
        image_id=entry.image_id,
    )
    return rooms.cache.adopt(told, lambda fd: peer.receive(fd, size))


def _remember_volumes(directory: Path, found: Sequence[AttachedVolume]) -> None:
    from cowshed.model.volume import VolumeState
    from cowshed.volumes import record

    for one in found:
        record.save(directory, replace(one, state=VolumeState.ATTACHED))


def _me(rooms: Rooms) -> bytes:
    return rooms.hypervisor.hostname().encode()


def _was_received(rooms: Rooms, instance: Instance) -> bool:
    """By this host; another one may have put it where we see it."""
    try:
        return (rooms.directory(instance.uuid).path / RECEIVED).read_bytes() == _me(rooms)
    except FileNotFoundError:
        return False


def discard(rooms: Rooms, instance: Instance) -> None:
    """What was received and is not wanted after all; nothing there is success. Never what a guest here uses, and never
    what this host only sees: in a common directory all is the other host's.

    :raises CowshedError: a domain has it
    """
    if rooms.hypervisor.find(instance.uuid):
        raise NameTaken(kind="domain", name=f"{instance.name} ({instance.uuid})")
    tpm.forget_received(rooms, instance.uuid)
    if not _was_received(rooms, instance):
        return
    try:
        passwords.forget(rooms, instance)
        leaving.forget_common_keys(rooms, instance)
        leaving.delete_local(rooms, instance, shared_path=False)
    except CowshedError as error:
        _log.warning("what came of %s is still there: %s", instance.name, error)
        raise
