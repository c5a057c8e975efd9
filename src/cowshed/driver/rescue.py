"""Rescue: boot from another image and back; rebuild on a new one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from cowshed import log
from cowshed.contract.rescue import Rescue as RescueContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import (
    building,
    config_devices,
    connect,
    disk_names,
    launch,
    layout,
    locate,
    marks,
    nvram,
    opening,
    placing,
    provision,
    replacing,
    rescuing,
    shares,
    standing,
    teardown,
)
from cowshed.errors import InstanceNotFound, InvalidState
from cowshed.hypervisor.guest import Guest
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif
from cowshed.model.volume import BlockDeviceInfo
from cowshed.undo import Undo

BlockDevices = BlockDeviceInfo | Mapping[str, Any] | None


class _Volumes:
    """Of an instance that is rebuilt: the caller takes them from it, and gives them to it again, in every case."""

    def __init__(self, detach: Callable[[], Any] | None, attach: Callable[[], Any] | None) -> None:
        self._detach = detach
        self._attach = attach
        self._taken = False
        self._given: BlockDevices = None

    def take(self) -> None:
        if self._detach:
            self._taken = self._attach is not None
            self._detach()

    def give(self) -> BlockDevices:
        """As it is to be started with; None: those of the record."""
        if self._attach:
            self._given = self._attach()
            self._taken = False
        return self._given

    def again(self) -> BlockDevices:
        """As :meth:`give`, of what was given already only what that said."""
        return self.give() if self._taken else self._given


class Rescue(RescueContract):
    rooms: Rooms

    def rescue(
        self,
        context: Any,
        instance: Instance,
        network_info: Sequence[Vif] | None,
        image_meta: Image,
        rescue_password: str,
    ) -> None:
        """The disks are made while the instance runs; only the restart interrupts it.

        :raises InvalidState: it is suspended, or rescued already
        """
        rooms, vifs = self.rooms, tuple(network_info or ())
        with log.about(instance.name), Undo() as undo:
            guest = self._restartable(instance, "rescued")
            rescuing.refuse_rescued(rooms, instance, "rescued")
            standing.ready(rooms, instance)
            shares.check_recorded(rooms, instance)
            launch.check_host(rooms)
            rescuing.delete_disks(rooms, instance.uuid)  # of a rescue that was killed
            plan = rescuing.plan(rooms, instance, image_meta)
            data = provision.metadata(rooms, instance, image_meta, plan, vifs, [], rescue_password)
            undo.push("delete the rescue disks", rescuing.delete_disks, rooms, instance.uuid)
            provision.disks(rooms, instance, image_meta, plan, undo)
            name = disk_names.CONFIG_DRIVE + disk_names.RESCUED
            provision.config_drive(rooms, instance, data, name, encrypt=layout.encrypts(rooms, instance, image_meta))
            config_devices.forget(rooms, instance.uuid, name)
            self._stop(guest, instance, vifs, undo)
            undo.push("boot as before", rescuing.end, rooms, instance.uuid)
            rescuing.begin(rooms, instance, image_meta, plan)
            launch.relaunch(rooms, instance, vifs)

    def unrescue(self, instance: Instance, network_info: Sequence[Vif] | None) -> None:
        """:param network_info: None: the interfaces it has"""
        rooms = self.rooms
        with log.about(instance.name):
            guest = rooms.hypervisor.guest(instance.uuid)
            if not placing.rescued(rooms, instance.uuid):
                return
            vifs = locate.remembered_vifs(rooms, guest) if network_info is None else tuple(network_info)
            marks.refuse_marked(rooms, instance)
            standing.ready(rooms, instance)
            shares.check_recorded(rooms, instance)
            launch.check_host(rooms)
            teardown.power_off(rooms, guest)
            opening.let_go(rooms, instance)
            connect.unplug(rooms, vifs)
            rescuing.end(rooms, instance.uuid)
            try:
                launch.relaunch(rooms, instance, vifs)
            finally:
                rescuing.delete_disks(rooms, instance.uuid)

    def rescued(self, instance: Instance) -> bool:
        """Does it boot from rescue disks now?"""
        return placing.rescued(self.rooms, instance.uuid)

    def rebuild(
        self,
        context: Any,
        instance: Instance,
        image_meta: Image,
        injected_files: Sequence[tuple[str, bytes | str]],
        admin_password: str | None,
        bdms: Any,
        detach_block_devices: Callable[..., Any] | None,
        attach_block_devices: Callable[..., Any] | None,
        network_info: Sequence[Vif] | None = None,
        recreate: bool = False,
        block_device_info: BlockDevices = None,
        preserve_ephemeral: bool = False,
    ) -> None:
        """The new disks are made before the old ones are touched; if it does not start on them, the old ones are back.

        With ``recreate`` an instance whose disks are here is started on them, and another is spawned anew.
        """
        rooms, vifs = self.rooms, tuple(network_info or ())
        volumes = _Volumes(
            partial(detach_block_devices, context, bdms) if detach_block_devices else None,
            partial(attach_block_devices, context, instance, bdms) if attach_block_devices else None,
        )
        if recreate:
            with log.about(instance.name):
                devices = volumes.give() or block_device_info  # as this host sees them
                if layout.root_exists(rooms, instance):
                    return launch.relaunch(rooms, instance, vifs, devices)
                files, password = injected_files, admin_password
                return building.build(rooms, instance, image_meta, vifs, devices, files=files, password=password)
        with log.about(instance.name), replacing.busy(rooms, instance.uuid), Undo() as undo:
            guest = self._restartable(instance, "rebuilt")
            rescuing.refuse_rescued(rooms, instance, "rebuilt")
            replacing.refuse_volume(rooms, instance, block_device_info)
            replacing.leftovers(rooms, instance.uuid)
            wanted = layout.plan(rooms, instance, image_meta, block_device_info)
            launch.check(rooms, instance, image_meta, vifs, shares.recorded(rooms, instance))
            new = replacing.plan(rooms, instance, wanted, keep_ephemeral=preserve_ephemeral)
            data = provision.metadata(rooms, instance, image_meta, wanted, vifs, injected_files, admin_password)
            replacing.make(rooms, instance, image_meta, new, data, undo)
            undo.push("give it its volumes again", volumes.again)
            self._stop(guest, instance, vifs, undo, volumes.again)
            volumes.take()  # a running guest might not let go of them
            self._exchange(instance, image_meta, new, undo)
            launch.relaunch(rooms, instance, vifs, volumes.give())
            undo.drop()
            nvram.forget(rooms, instance.uuid)
            for name in replacing.surplus(rooms, instance, new):
                locate.disk(rooms, instance.uuid, name).delete()
            replacing.leftovers(rooms, instance.uuid)

    def _exchange(self, instance: Instance, image: Image, new: replacing.Replacement, undo: Undo) -> None:
        rooms = self.rooms
        places, before = placing.places_in(rooms, instance.uuid, placing.FILE), locate.remembered_image(rooms, instance)
        undo.push("stand the disks where they stood", placing.remember_places, rooms, instance.uuid, places)
        undo.push("remember the old image", locate.remember_image, rooms, instance, before)
        undo.push("take the old disks", replacing.take_back, rooms, instance, new)
        replacing.exchange(rooms, instance, new)
        undo.push("take the old UEFI variables", nvram.give_back, rooms, instance.uuid)
        nvram.set_aside(rooms, instance.uuid)  # they name what the old disks boot
        locate.remember_image(rooms, instance, image)
        layout.remember(rooms, instance, new.plan)

    def _restartable(self, instance: Instance, action: str) -> Guest:
        """:raises InstanceNotFound: :raises InvalidState: it must not start, or its memory would be lost"""
        guest = self.rooms.hypervisor.find(instance.uuid)
        if guest is None:
            raise InstanceNotFound(name=instance.name)
        marks.refuse_marked(self.rooms, instance, action)
        if guest.has_saved():
            raise InvalidState(name=instance.name, state="suspended", action=action, hint="resume it first")
        return guest

    def _stop(
        self,
        guest: Guest,
        instance: Instance,
        vifs: Sequence[Vif],
        undo: Undo,
        block_devices: Callable[[], BlockDevices] = lambda: None,
    ) -> None:
        """Hard; it runs again when what follows fails, if it did before.

        :param block_devices: says what it is started with then
        """
        if guest.state() in (PowerState.RUNNING, PowerState.PAUSED):
            undo.push("start it as it was", lambda: launch.relaunch(self.rooms, instance, vifs, block_devices()))
        teardown.power_off(self.rooms, guest)
        opening.let_go(self.rooms, instance)
        connect.unplug(self.rooms, vifs)
