"""Shares: directories of the host that guests mount through virtiofs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cowshed import log
from cowshed.contract.shares import Shares as SharesContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import devices, shares
from cowshed.errors import InstanceNotFound, InvalidState, NotFound
from cowshed.model.instance import Instance
from cowshed.model.share import Share
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest


class Shares(SharesContract):
    rooms: Rooms

    def mount_share(self, context: Any, instance: Instance, share_mapping: Share) -> None:
        rooms = self.rooms
        with log.about(instance.name):
            if not rooms.directory(instance.uuid).exists():
                raise InstanceNotFound(name=instance.name)
            known = [one for one in shares.recorded(rooms, instance) if one.id != share_mapping.id]
            shares.give(rooms, instance, [*known, share_mapping])
            with Undo() as undo:
                undo.push("forget the share", shares.forget, rooms, instance, share_mapping)
                shares.mount(rooms, share_mapping)

    def umount_share(self, context: Any, instance: Instance, share_mapping: Share) -> bool:
        rooms = self.rooms
        with log.about(instance.name):
            guest = rooms.hypervisor.find(instance.uuid)
            if guest and self._uses(guest, share_mapping):
                raise InvalidState(
                    name=instance.name,
                    state="running",
                    action=f"deprived of {share_mapping.source}",
                    hint="stop it first",
                )
            shares.forget(rooms, instance, share_mapping)
            return not shares.used(rooms, share_mapping)

    def is_share_mounted(self, context: Any, instance: Instance, share_mapping: Share) -> bool:
        known = [one.id for one in shares.recorded(self.rooms, instance)]
        return share_mapping.id in known and shares.is_mounted(self.rooms, share_mapping)

    def give_shares(self, context: Any, instance: Instance, share_info: Sequence[Share]) -> None:
        with log.about(instance.name):
            shares.give(self.rooms, instance, [self._plain(one) for one in share_info])

    def _plain(self, share: Share) -> Share:
        return Share(share.id, share.tag, share.source, share.protocol, share.read_only)

    def _uses(self, guest: Guest, share: Share) -> bool:
        return not guest.ended() and shares.finder(share)(guest.xml()) is not None

    # --- cowshed's own ------------------------------------------------------------------------

    def shares(self, instance: Instance) -> tuple[Share, ...]:
        """The shares of an instance, as recorded, and what they are to the guest now."""
        found = shares.recorded(self.rooms, instance)
        guest = self.rooms.hypervisor.find(instance.uuid) if found else None
        return tuple(replace(one, status=shares.status(self.rooms, instance, guest, one)) for one in found)

    def attach_share(self, instance: Instance, share: Share) -> None:
        """As :meth:`mount_share`; a running guest sees it at once, where it was started with shared memory.

        :raises UnsupportedOperation: it was not; nothing was done
        """
        rooms = self.rooms
        with log.about(instance.name):
            guest = rooms.hypervisor.guest(instance.uuid)
            if guest.ended():
                return self.mount_share(None, instance, share)
            known = shares.recorded(rooms, instance)
            shares.check(rooms, instance, [*known, share])
            shares.refuse_hot(rooms, instance, guest)
            with Undo() as undo:
                undo.push("forget the share", shares.forget, rooms, instance, share)
                shares.keep(rooms, instance, [*known, share])
                undo.push("end its virtiofsd", shares.close_one, rooms, instance.uuid, share)
                opened = shares.opened(rooms, instance, share)
                rooms.progress.phase("attach")
                # Whether the guest got it is not known when libvirt went away.
                undo.push("take it back", shares.take_back, guest, share)
                shares.attach(guest, opened)

    def detach_share(self, instance: Instance, share_id: str, *, timeout: float | None = None) -> None:
        """Take a share from the guest, running or not, and from the record.

        :param timeout: seconds a running guest has to let go of it; None: as configured for volumes
        :raises NotFound: it is not on record :raises DeadlineExceeded: the guest does not let go; it stays
        """
        rooms = self.rooms
        with log.about(instance.name):
            share = next((one for one in shares.recorded(rooms, instance) if one.id == share_id), None)
            if share is None:
                raise NotFound(kind="share", name=f"{share_id} of {instance.name}")
            shares.refuse_suspended(rooms, instance)
            guest = rooms.hypervisor.find(instance.uuid)
            if guest and self._uses(guest, share):
                rooms.progress.phase("detach")
                each, attempts = devices.patience(rooms, timeout)
                guest.devices.detach(shares.finder(share), timeout=each, attempts=attempts, what=share.tag)
            shares.close_one(rooms, instance.uuid, share)
            shares.forget(rooms, instance, share)
