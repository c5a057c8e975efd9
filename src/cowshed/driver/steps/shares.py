"""Make the shares of an instance ready on this host, and take them away again; find them in its domain.

The record beside the instance's disks is written before anything is mounted, so nothing that a killed process
has mounted is forgotten. libvirt serves a share by itself where it is the system's; a session's libvirt of
version 9 does not, so there we start virtiofsd (``tools/virtiofsd``) and the domain is given its socket.
"""

from __future__ import annotations

import os
import uuid as uuids
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from cowshed import log
from cowshed.errors import CowshedError, DataCorrupt, HypervisorError, InvalidState, ToolFailed, UnsupportedOperation
from cowshed.model.instance import Instance
from cowshed.model.share import OpenedShare, Share, ShareProtocol, ShareStatus
from cowshed.shares import check as checking
from cowshed.shares import record
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.domain.filesystem import Filesystem
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

PATIENCE: Final = 120.0  # seconds for somebody else who mounts the same share
_DAEMON: Final = "virtiofsd-"  # how the files of ours begin, in the instance's directory


def recorded(rooms: Rooms, instance: Instance) -> tuple[Share, ...]:
    return record.load(rooms.directory(instance.uuid).path)


# --- before anything is touched -------------------------------------------------------------------


def check(rooms: Rooms, instance: Instance, shares: Sequence[Share]) -> None:
    """Can this host give these to the instance, all of them together?

    :raises InvalidRequest: :raises NotFound: :raises PermissionDenied: :raises Conflict: :raises NameTaken:
    :raises UnsupportedOperation: :raises ToolMissing:
    """
    from cowshed.tools import mounts, virtiofsd

    if not shares:
        return
    checking.check(shares, private=rooms.state)
    if any(share.protocol == ShareProtocol.NFS for share in shares):
        mounts.require_nfs()
    if rooms.hypervisor.session:
        for share in shares:
            virtiofsd.check(socket(instance.uuid, share))
        return
    virtiofsd.require()  # libvirt starts it
    for share in shares:
        if share.read_only and os.geteuid() != 0:
            raise UnsupportedOperation(
                subject="virtiofsd of QEMU 7.2",
                operation=f"share {share.source} for reading only",
                reason="it cannot by itself, and only root may mount the directory read-only for it",
                hint="be root, use qemu:///session, or share it for writing",
            )


def check_recorded(rooms: Rooms, instance: Instance) -> None:
    """Before an instance is stopped to be started again; raises as :func:`check`."""
    check(rooms, instance, recorded(rooms, instance))


def refuse_moving(rooms: Rooms, instance: Instance, guest: Guest) -> None:
    """:raises UnsupportedOperation: it has shares, and with those no running guest goes to another host"""
    from cowshed.domain.domain import Domain

    shares = recorded(rooms, instance)
    if shares or Domain.parse(guest.xml()).filesystems:
        raise UnsupportedOperation(
            subject=f"instance {instance.name}",
            operation="be moved to another host while it runs",
            reason=f"it shares directories of this one ({_named(shares) or 'until its next start'})",
            hint="stop it and detach them: cowshed share detach",
        )


def refuse_leaving(rooms: Rooms, instance: Instance) -> None:
    """:raises UnsupportedOperation: it has directories that only this host has"""
    local = [one for one in recorded(rooms, instance) if one.protocol == ShareProtocol.LOCAL]
    if local:
        raise UnsupportedOperation(
            subject=f"instance {instance.name}",
            operation="be moved to another host",
            reason=f"it shares directories of this one ({_named(local)})",
            hint="detach them first: cowshed share detach",
        )


def refuse_saving(instance: Instance, guest: Guest) -> None:
    """:raises UnsupportedOperation: the guest has shares now; the state of virtiofsd cannot be saved"""
    from cowshed.domain.domain import Domain

    if Domain.parse(guest.xml()).filesystems:
        raise UnsupportedOperation(
            subject=f"instance {instance.name}",
            operation="be suspended",
            reason="it shares directories with this host, and what virtiofsd knows cannot be saved",
            hint="pause it, or stop it",
        )


def _named(shares: Sequence[Share]) -> str:
    return ", ".join(share.source for share in shares)


# --- which ones an instance has -------------------------------------------------------------------


def give(rooms: Rooms, instance: Instance, shares: Sequence[Share]) -> None:
    """These from its next start on; of an instance that is not there yet this process remembers it until then.

    :raises InvalidState: it is suspended
    """
    check(rooms, instance, shares)
    if not rooms.directory(instance.uuid).exists():
        rooms.expected_shares[instance.uuid] = tuple(shares)
        return
    if list(shares) == list(recorded(rooms, instance)):
        return
    refuse_suspended(rooms, instance)
    keep(rooms, instance, shares)


def refuse_suspended(rooms: Rooms, instance: Instance) -> None:
    """:raises InvalidState: its saved memory knows the devices of then"""
    guest = rooms.hypervisor.find(instance.uuid)
    if guest and guest.has_saved():
        raise InvalidState(name=instance.name, state="suspended", action="given or deprived of a share")


def keep(rooms: Rooms, instance: Instance, shares: Sequence[Share]) -> None:
    record.save(rooms.directory(instance.uuid).path, shares)


def forget(rooms: Rooms, instance: Instance, share: Share | None = None) -> None:
    """One, or all, and what is mounted for nobody else."""
    if rooms.directory(instance.uuid).exists():
        keep(rooms, instance, [one for one in recorded(rooms, instance) if share and one.id != share.id])
    unmount_unused(rooms)


def used(rooms: Rooms, share: Share) -> bool:
    """Does any instance of this host have it, in the same way?"""
    return _any_has(rooms, lambda one: (one.id, one.read_only) == (share.id, share.read_only), {share.id})


def _any_has(rooms: Rooms, wanted: Callable[[Share], bool], ids: Collection[str]) -> bool:
    """:param ids: those that a wanted share may have"""
    return any(_has(rooms, path.parent, wanted, ids) for path in rooms.instances.glob(f"*/{record.FILE}"))


def _has(rooms: Rooms, place: Path, wanted: Callable[[Share], bool], ids: Collection[str]) -> bool:
    """By the record in ``place``. One that cannot be read may name what its domain has, and holds up nothing else."""
    from cowshed.domain.domain import Domain

    try:
        return any(wanted(one) for one in record.load(place))
    except DataCorrupt as error:
        _log.warning("what instance %s shares is taken from its domain: %s", place.name, error)
    guest = rooms.hypervisor.find(place.name)
    aliases = {Share(one, "", "").alias for one in ids}
    return guest is not None and any(one.alias in aliases for one in Domain.parse(guest.xml()).filesystems)


# --- the host side --------------------------------------------------------------------------------


def open_all(rooms: Rooms, instance: Instance, undo: Undo) -> list[OpenedShare]:
    """Every share of an instance that is about to start, such that its domain can be given it."""
    undo.push("end its virtiofsd", close, rooms, instance.uuid)
    return [opened(rooms, instance, share) for share in recorded(rooms, instance)]


def opened(rooms: Rooms, instance: Instance, share: Share) -> OpenedShare:
    """Repeating is success, while no guest is connected."""
    from cowshed.tools import virtiofsd

    directory = mount(rooms, share)
    if not rooms.hypervisor.session:
        return OpenedShare(share, directory=directory)
    rooms.progress.phase("share")
    place = socket(instance.uuid, share)
    virtiofsd.start(
        directory,
        socket=place,
        pidfile=pidfile(rooms, instance.uuid, share),
        output=pidfile(rooms, instance.uuid, share).with_suffix(".log"),
        read_only=share.read_only and share.protocol == ShareProtocol.LOCAL,
    )
    return OpenedShare(share, socket=place)


def mount(rooms: Rooms, share: Share) -> Path:
    """Where the directory is on this host; mounted, if it must be."""
    from cowshed.tools import mounts

    target = mountpoint(rooms, share)
    if target is None:
        return Path(share.source)
    with _held(rooms, target):
        if share.protocol == ShareProtocol.NFS:
            mounts.nfs(share.source, target, read_only=share.read_only)
        else:
            mounts.bind_read_only(Path(share.source), target)
    return target


@contextmanager
def _held(rooms: Rooms, target: Path) -> Iterator[None]:
    """One at a time mounts or unmounts there: several instances may have the share."""
    from cowshed.tools import filesystem, locks

    path = _lock(rooms, target)
    filesystem.make_directory(path.parent)
    with locks.lock(path, timeout=PATIENCE, what=f"the share at {target}"):
        yield


def _lock(rooms: Rooms, target: Path) -> Path:
    return rooms.state / "locks" / f"share-{target.name}"


def mountpoint(rooms: Rooms, share: Share) -> Path | None:
    """None: the directory needs no mount of ours."""
    in_session = share.protocol == ShareProtocol.LOCAL and rooms.hypervisor.session
    if share.protocol == ShareProtocol.LOCAL and (in_session or not share.read_only):
        return None
    return rooms.shares / f"{share.id}{'-ro' if share.read_only else ''}"


def is_mounted(rooms: Rooms, share: Share) -> bool:
    from cowshed.tools import mounts

    target = mountpoint(rooms, share)
    return Path(share.source).is_dir() if target is None else mounts.mounted(target)


def unmount_unused(rooms: Rooms) -> None:
    """What no instance of this host names any more; what fails is logged."""
    from cowshed.tools import mounts

    if not rooms.shares.is_dir():
        return
    for target in mounts.below(rooms.shares):
        try:
            _unmount_if_unused(rooms, target)
        except CowshedError as error:
            _log.warning("could not unmount %s, which nobody uses: %s", target, error)


def _unmount_if_unused(rooms: Rooms, target: Path) -> None:
    from cowshed.tools import locks, mounts

    if _named_by_any(rooms, target):
        return
    with _held(rooms, target):
        if _named_by_any(rooms, target):  # somebody has come before we held it
            return
        mounts.unmount(target)
    locks.remove(_lock(rooms, target))


def _named_by_any(rooms: Rooms, target: Path) -> bool:
    """By the record of any instance; who mounts it has written that before."""
    ids = {target.name, target.name.removesuffix("-ro")}
    return _any_has(rooms, lambda one: mountpoint(rooms, one) == target, ids)


def let_go(rooms: Rooms, instance: Instance) -> None:
    """As :func:`close`; what fails is logged."""
    try:
        close(rooms, instance.uuid)
    except CowshedError as error:
        _log.warning("shares of instance %s: %s", instance.name, error)


def close(rooms: Rooms, uuid: str) -> None:
    """End what of ours serves the instance: it has ended already where its guest has.

    :raises CowshedError: one does not end
    """
    for path in sorted(rooms.directory(uuid).path.glob(f"{_DAEMON}*.pid")):
        _close(path, _socket(uuid, path.stem.removeprefix(_DAEMON)))


def close_one(rooms: Rooms, uuid: str, share: Share) -> None:
    """:raises CowshedError: it does not end"""
    _close(pidfile(rooms, uuid, share), socket(uuid, share))


def _close(pidfile: Path, socket: Path) -> None:
    from cowshed.tools import filesystem, virtiofsd

    virtiofsd.stop(pidfile)
    filesystem.remove_file(socket)


def socket(uuid: str, share: Share) -> Path:
    return _socket(uuid, share.id)


def _socket(uuid: str, share_id: str) -> Path:
    """Of this user's daemons; short, because a socket's path has room for little."""
    from cowshed.hypervisor import session

    name = uuids.uuid5(uuids.NAMESPACE_URL, f"{uuid}/{share_id}").hex[:16]
    return session.runtime_directory().parent / "cowshed" / f"share-{name}"


def pidfile(rooms: Rooms, uuid: str, share: Share) -> Path:
    return rooms.directory(uuid).path / f"{_DAEMON}{share.id}.pid"


def explained(rooms: Rooms, instance: Instance, error: CowshedError) -> CowshedError:
    """``error`` of a start that failed because a virtiofsd of ours has ended says what that one said."""
    from cowshed.tools import virtiofsd

    for share in recorded(rooms, instance) if rooms.hypervisor.session else ():
        file = pidfile(rooms, instance.uuid, share)
        if file.exists() and not virtiofsd.alive(file):
            said = virtiofsd.last_words(file.with_suffix(".log"))
            return ToolFailed(command=f"{virtiofsd.NAME} of {share.source}", status=1, output=said)
    return error


# --- in the domain --------------------------------------------------------------------------------


def finder(share: Share) -> Callable[[str], Filesystem | None]:
    """Finds the share in a domain."""

    def look(xml: str) -> Filesystem | None:
        from cowshed.domain.domain import Domain

        return next((one for one in Domain.parse(xml).filesystems if one.alias == share.alias), None)

    return look


def attach(guest: Guest, opened: OpenedShare) -> None:
    """:raises HypervisorError: libvirt says yes, and it is not there"""
    from cowshed.domain.filesystem import filesystem

    guest.devices.attach(filesystem(opened).to_xml())
    if finder(opened.share)(guest.xml()) is None:
        raise HypervisorError(
            action=f"share {opened.share.source} with {guest.name}", reason="it is not in the domain", number=0
        )


def take_back(guest: Guest, share: Share) -> None:
    guest.devices.detach(finder(share), timeout=5, attempts=1, what=share.tag)


def refuse_hot(rooms: Rooms, instance: Instance, guest: Guest) -> None:
    """:raises UnsupportedOperation: this running guest cannot be given a share"""
    from cowshed.domain.domain import Domain

    if not rooms.hypervisor.session and not guest.in_control_group():
        raise UnsupportedOperation(
            subject=f"instance {instance.name}",
            operation="be given a share while it runs",
            reason="it is in no control group, and the daemon of libvirt 9 crashes when it shall start virtiofsd then",
            hint="stop it, attach the share, start it again",
        )
    backing = Domain.parse(guest.xml()).memory_backing
    if backing is None or not backing.shared:
        raise UnsupportedOperation(
            subject=f"instance {instance.name}",
            operation="be given a share while it runs",
            reason="it was started without any, and its memory cannot be shared with virtiofsd",
            hint="stop it, attach the share, start it again",
        )


def status(rooms: Rooms, instance: Instance, guest: Guest | None, share: Share) -> ShareStatus:
    from cowshed.tools import virtiofsd

    with suppress(CowshedError):
        if guest is None or guest.ended() or finder(share)(guest.xml()) is None:
            return ShareStatus.INACTIVE
        if rooms.hypervisor.session and not virtiofsd.alive(pidfile(rooms, instance.uuid, share)):
            return ShareStatus.ERROR
        return ShareStatus.ACTIVE
    return ShareStatus.ERROR
