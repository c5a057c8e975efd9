"""Lifecycle: spawn, destroy and what belongs to them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cowshed import log
from cowshed.contract.lifecycle import Lifecycle as LifecycleContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import (
    autostart,
    building,
    connect,
    filtering,
    launch,
    layout,
    leaving,
    locate,
    lock_files,
    marks,
    opening,
    serial,
    shares,
    teardown,
    transit,
    volumes,
)
from cowshed.errors import CowshedError
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif
from cowshed.model.volume import BlockDeviceInfo
from cowshed.undo import Undo

_log = log.logger(__name__)


class Lifecycle(LifecycleContract):
    rooms: Rooms

    def spawn(
        self,
        context: Any,
        instance: Instance,
        image_meta: Image,
        injected_files: Sequence[tuple[str, bytes | str]],
        admin_password: str | None,
        network_info: Sequence[Vif] | None = None,
        block_device_info: BlockDeviceInfo | Mapping[str, Any] | None = None,
    ) -> None:
        with log.about(instance.name):
            building.build(
                self.rooms,
                instance,
                image_meta,
                tuple(network_info or ()),
                block_device_info,
                files=injected_files,
                password=admin_password,
            )

    def destroy(
        self,
        context: Any,
        instance: Instance,
        network_info: Sequence[Vif] | None = None,
        block_device_info: BlockDeviceInfo | Mapping[str, Any] | None = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
    ) -> None:
        with log.about(instance.name):
            guest = self.rooms.hypervisor.find(instance.uuid)
            if guest is None:
                _log.info("there is no domain; removing what else is left")
            else:
                teardown.power_off(self.rooms, guest)
            self.cleanup(context, instance, network_info, block_device_info, destroy_disks, migrate_data)

    def cleanup(
        self,
        context: Any,
        instance: Instance,
        network_info: Sequence[Vif] | None = None,
        block_device_info: BlockDeviceInfo | Mapping[str, Any] | None = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
        destroy_vifs: bool = True,
    ) -> None:
        if destroy_vifs:
            filtering.remove(self.rooms, instance, self._vifs(instance, network_info))
            connect.unplug(self.rooms, tuple(network_info or ()))
        teardown.undefine(self.rooms, instance.uuid)
        if not transit.gone(self.rooms, instance.uuid):
            volumes.disconnect_all(self.rooms, instance, block_device_info, keep_record=not destroy_disks)
        shares.let_go(self.rooms, instance)
        if not destroy_disks:
            opening.let_go(self.rooms, instance)
        elif transit.gone(self.rooms, instance.uuid):
            # It runs elsewhere: what both hosts see is that one's.
            opening.forget_keys(self.rooms, instance)
            note = transit.noted(self.rooms, instance.uuid, transit.Way.OUT) or {}
            leaving.delete_local(self.rooms, instance, shared_path=bool(note.get("shared")))
            serial.give_back(self.rooms, instance.uuid)
            transit.forget(self.rooms, instance.uuid, transit.Way.OUT)
        else:
            opening.forget_keys(self.rooms, instance)
            teardown.delete_disks(self.rooms, instance)
            self.rooms.directory(instance.uuid).delete()
            serial.give_back(self.rooms, instance.uuid)
            transit.forget(self.rooms, instance.uuid, transit.Way.OUT)  # of a resize that waited for its end
        shares.unmount_unused(self.rooms)
        if destroy_disks:
            lock_files.forget(self.rooms, instance.uuid)

    def _vifs(self, instance: Instance, network_info: Sequence[Vif] | None) -> Sequence[Vif]:
        """What the caller names and what the domain remembers."""
        found = {vif.id: vif for vif in network_info or ()}
        if guest := self.rooms.hypervisor.find(instance.uuid):
            try:
                found = {vif.id: vif for vif in locate.remembered_vifs(self.rooms, guest)} | found
            except CowshedError as error:
                _log.warning("the interfaces of its domain are not known: %s", error)
        return list(found.values())

    def soft_delete(self, instance: Instance) -> None:
        """Off, with the host side of its interfaces gone and autostart forbidden; disks and definition stay."""
        with log.about(instance.name):
            guest = self.rooms.hypervisor.find(instance.uuid)
            if guest is None:
                _log.warning("there is no domain to be deleted softly")
                return
            marks.refuse_leaving(self.rooms, instance, "deleted")
            vifs = locate.remembered_vifs(self.rooms, guest)  # without them it could not be restored
            with Undo() as undo:  # to the end: whoever hears that it failed takes it for one that is not deleted
                undo.push("let it start with the host", autostart.allow, self.rooms, guest, instance.uuid)
                if marks.Mark.SOFT_DELETED not in marks.marks(self.rooms, instance.uuid):
                    undo.push("allow it to start", marks.unmark, self.rooms, instance.uuid, marks.Mark.SOFT_DELETED)
                marks.mark(self.rooms, instance.uuid, marks.Mark.SOFT_DELETED)
                section = self.rooms.config.power
                if not teardown.shut_down(self.rooms, guest, section.shutdown_timeout, 10):
                    teardown.power_off(self.rooms, guest)
                autostart.forbid(self.rooms, guest, instance.uuid)
                shares.let_go(self.rooms, instance)
                opening.let_go(self.rooms, instance)
                connect.unplug(self.rooms, vifs)

    def restore(self, instance: Instance) -> None:
        self.undelete(instance, power_on=True)

    def undelete(self, instance: Instance, *, power_on: bool) -> None:
        """:meth:`restore`, which may leave it off (beside the contract)."""
        with log.about(instance.name):
            guest = self.rooms.hypervisor.guest(instance.uuid)
            with Undo() as undo:
                if marks.Mark.SOFT_DELETED in marks.marks(self.rooms, instance.uuid):
                    undo.push("keep it deleted", marks.mark, self.rooms, instance.uuid, marks.Mark.SOFT_DELETED)
                marks.unmark(self.rooms, instance.uuid, marks.Mark.SOFT_DELETED)
                undo.push("do not start it with the host", autostart.forbid, self.rooms, guest, instance.uuid)
                autostart.allow(self.rooms, guest, instance.uuid)
                if power_on and guest.state() != PowerState.RUNNING:
                    launch.relaunch(self.rooms, instance, locate.remembered_vifs(self.rooms, guest))

    def set_bootable(self, instance: Instance, is_bootable: bool) -> None:
        """Kept over restarts of everything; libvirt itself does not start it either."""
        guest = self.rooms.hypervisor.guest(instance.uuid)
        if is_bootable:
            marks.unmark(self.rooms, instance.uuid, marks.Mark.NOT_BOOTABLE)
            return autostart.allow(self.rooms, guest, instance.uuid)
        marks.mark(self.rooms, instance.uuid, marks.Mark.NOT_BOOTABLE)
        autostart.forbid(self.rooms, guest, instance.uuid)

    def delete_instance_files(self, instance: Instance) -> bool:
        try:
            self.rooms.directory(instance.uuid).delete()
        except CowshedError as error:
            _log.warning("files of %s are still there: %s", instance.name, error)
            return False
        return True

    def instance_on_disk(self, instance: Instance) -> bool:
        return layout.root_exists(self.rooms, instance)
