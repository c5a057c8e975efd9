"""Resize and cold migration: stop here, start there or here again with another flavor; confirm or revert.

What is kept for a revert: the disks themselves where the instance goes to a host that does not see them, else
copies or snapshots of them (``steps/keeping``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from cowshed import log
from cowshed.clock import Deadline
from cowshed.contract.resize import Resize as ResizeContract
from cowshed.contract.types import BlockDevices, NetworkInfo
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import (
    connect,
    disk_info,
    disk_names,
    filtering,
    keeping,
    launch,
    leaving,
    locate,
    marks,
    meeting,
    opening,
    passwords,
    placing,
    receiving,
    sending,
    serial,
    shares,
    standing,
    teardown,
    transit,
    volumes,
)
from cowshed.driver.steps.transit import Phase, Way
from cowshed.errors import DiskTooSmall, InvalidState
from cowshed.hypervisor.guest import Guest
from cowshed.model.disk import ManifestDisk
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.undo import Undo

_log = log.logger(__name__)

Entries = Mapping[str, ManifestDisk]


class Resize(ResizeContract):
    rooms: Rooms

    def migrate_disk_and_power_off(
        self,
        context: Any,
        instance: Instance,
        dest: str,
        flavor: Flavor,
        network_info: NetworkInfo,
        block_device_info: BlockDevices = None,
        timeout: float = 0,
        retry_interval: float = 0,
    ) -> str:
        """:raises InvalidState: it is suspended or rescued, or resized already

        :raises DiskNotFound: what a disk stands on is gone for good; it was not stopped
        :raises HostUnsuitable: the destination cannot take it, or this host cannot run it so; it was not stopped
        """
        rooms, vifs = self.rooms, tuple(network_info or ())
        with log.about(instance.name), transit.busy(rooms, instance.uuid, Way.OUT), Undo() as undo:
            guest = self._refuse_unresizable(instance)
            standing.ready(rooms, instance)
            info = disk_info.told(rooms, instance)  # a killed roll back of a disk is finished by that
            entries = leaving.own(rooms, instance)
            refuse_shrinking(entries, flavor)
            undo.push("forget that it is resized", transit.forget, rooms, instance.uuid, Way.OUT)
            if meeting.is_here(rooms, dest):
                keeping.check(rooms, instance, entries.values())
                launch.check(rooms, replace(instance, flavor=flavor), locate.remembered_image(rooms, instance), vifs)
                self._halt(guest, instance, network_info, timeout, retry_interval, undo)
                self._keep(instance, entries, undo)
                transit.note(rooms, instance.uuid, Way.OUT, phase=Phase.KEPT, here=True, lines=_lines(entries))
                return info
            shares.refuse_leaving(rooms, instance)
            sending.check(rooms, instance, entries)
            with sending.channel(rooms, dest) as channel:
                plan = sending.offer(rooms, instance, flavor, entries, channel)
                used = {name: one for name, one in entries.items() if plan["modes"][name] == sending.THERE}
                keeping.check(rooms, instance, used.values())
                ran = guest.state() == PowerState.RUNNING
                self._halt(guest, instance, network_info, timeout, retry_interval, undo)
                self._keep(instance, used, undo)
                note = {
                    "dest": dest,
                    "ran": ran,
                    "shared": bool(plan["shared"]),
                    "keys": plan["keys"],
                    "lines": _lines(used),
                }
                transit.note(rooms, instance.uuid, Way.OUT, phase=Phase.KEPT, **note)
                sending.send(rooms, instance, entries, plan, channel)
            volumes_of = {"is_shared_instance_path": bool(plan["shared"])}
            leaving.disconnect(rooms, instance, volumes_of, keep_record=True)
            filtering.remove(rooms, instance, vifs)
            return info

    def _refuse_unresizable(self, instance: Instance) -> Guest:
        guest = self.rooms.hypervisor.guest(instance.uuid)
        transit.refuse_another(self.rooms, instance, "resized or moved")
        marks.refuse_marked(self.rooms, instance, "resized")
        if placing.rescued(self.rooms, instance.uuid):
            raise InvalidState(name=instance.name, state="rescued", action="resized", hint="unrescue it first")
        if guest.has_saved():
            raise InvalidState(name=instance.name, state="suspended", action="resized", hint="resume it first")
        return guest

    def _halt(
        self,
        guest: Guest,
        instance: Instance,
        network_info: NetworkInfo,
        timeout: float,
        interval: float,
        undo: Undo,
    ) -> None:
        """It runs again when what follows fails, if it did before."""
        rooms, vifs, deadline = self.rooms, tuple(network_info or ()), Deadline(timeout, f"{guest.name} off")
        if guest.state() in (PowerState.RUNNING, PowerState.PAUSED):
            undo.push("start it as it was", self._start_again, guest, instance, vifs, deadline, interval)
        self._power_off(guest, deadline, interval)
        opening.let_go(rooms, instance)
        connect.unplug(rooms, vifs)

    def _power_off(self, guest: Guest, deadline: Deadline, interval: float) -> None:
        """By its power button until ``deadline``, then hard."""
        if not teardown.shut_down(self.rooms, guest, deadline.remaining() or 0.0, interval):
            teardown.power_off(self.rooms, guest)

    def _start_again(self, guest: Guest, instance: Instance, vifs: Any, deadline: Deadline, interval: float) -> None:
        """It may be on its way down still, and would go off whatever was done: it gets the rest of its time for that."""
        transit.forget(self.rooms, instance.uuid, Way.OUT)
        if guest.state() == PowerState.PAUSED:
            return  # it was not asked, and could not hear it
        if not guest.ended():
            _log.warning("it was asked to power off; waiting until it has")
        self._power_off(guest, deadline, interval)
        opening.let_go(self.rooms, instance)
        connect.unplug(self.rooms, vifs)
        launch.relaunch(self.rooms, instance, vifs)

    def _keep(self, instance: Instance, entries: Entries, undo: Undo) -> None:
        for entry in entries.values():
            keeping.quietly(self.rooms, instance.uuid, entry)  # of one that was killed
            undo.push(f"give up what is kept of {entry.name}", keeping.give_up, self.rooms, instance.uuid, entry)
            keeping.keep(self.rooms, instance, entry)

    def finish_migration(
        self,
        context: Any,
        migration: Any,
        instance: Instance,
        disk_info: str,
        network_info: NetworkInfo,
        image_meta: Image,
        resize_instance: bool,
        block_device_info: BlockDevices = None,
        power_on: bool = True,
    ) -> None:
        """:raises DiskNotFound: its disks have not come"""
        rooms, vifs = self.rooms, tuple(network_info or ())
        with log.about(instance.name):
            if resize_instance:
                self._grow(instance)
            if power_on:
                return launch.relaunch(rooms, instance, vifs, block_device_info)
            with Undo() as undo:
                plugged = connect.plug(rooms, vifs, undo)
                image = locate.remembered_image(rooms, instance)
                wanted = volumes.wanted(rooms, instance, image, block_device_info)
                connected = volumes.connect_all(rooms, instance, wanted, undo)
                launch.define(rooms, instance, image, plugged, connected)
            opening.let_go(rooms, instance)
            connect.unplug(rooms, vifs)

    def _grow(self, instance: Instance) -> None:
        from cowshed.disks import manifest

        for name, size in _sizes(instance.flavor).items():
            entry = manifest.find(self.rooms.directory(instance.uuid).path, name)
            if entry and size > entry.virtual_size:
                self.rooms.backend(entry.backend).disk(instance.uuid, name).resize(size)

    def confirm_migration(self, migration: Any, instance: Instance, network_info: NetworkInfo) -> None:
        rooms = self.rooms
        with log.about(instance.name):
            note = transit.kept(rooms, instance.uuid)
            if note is None:
                return
            for entry in _entries(note):
                keeping.quietly(rooms, instance.uuid, entry)
            keeping.clear(rooms, instance.uuid)
            if not note.get("here"):
                filtering.remove(rooms, instance, tuple(network_info or ()))
                connect.unplug(rooms, tuple(network_info or ()))
                teardown.undefine(rooms, instance.uuid)
                opening.forget_keys(rooms, instance)
                passwords.forget(rooms, instance)
                if note.get("keys"):
                    leaving.forget_common_keys(rooms, instance)
                leaving.delete_local(rooms, instance, shared_path=bool(note.get("shared")))
                serial.give_back(rooms, instance.uuid)
                shares.unmount_unused(rooms)
            transit.forget(rooms, instance.uuid, Way.OUT)

    def finish_revert_migration(
        self,
        context: Any,
        instance: Instance,
        network_info: NetworkInfo,
        block_device_info: BlockDevices = None,
        power_on: bool = True,
    ) -> None:
        """The caller has destroyed the instance at the destination, without its disks where both hosts see them."""
        rooms, vifs = self.rooms, tuple(network_info or ())
        with log.about(instance.name):
            note = transit.kept(rooms, instance.uuid)
            if note is not None:
                teardown.stop(rooms, instance.uuid)
                opening.let_go(rooms, instance)
                for entry in _entries(note):
                    keeping.give_back(rooms, instance.uuid, entry)
                keeping.clear(rooms, instance.uuid)
                transit.forget(rooms, instance.uuid, Way.OUT)
            guest = rooms.hypervisor.find(instance.uuid)
            if power_on and not (guest and guest.state() == PowerState.RUNNING):
                launch.relaunch(rooms, instance, vifs, block_device_info)

    # --- cowshed's own ------------------------------------------------------------------------

    def receive(self, instance: Instance, offer: Mapping[str, Any], channel: Any) -> None:
        """Take the disks of a stopped instance from another host; see ``steps/receiving``."""
        with log.about(instance.name):
            receiving.receive(self.rooms, instance, offer, channel)

    def discard_received(self, instance: Instance) -> None:
        """Remove what was received and is not wanted after all."""
        receiving.discard(self.rooms, instance)

    def resized(self, instance: Instance) -> bool:
        """Does it wait for a confirmation or a revert here?"""
        return transit.kept(self.rooms, instance.uuid) is not None

    def moved_to(self, instance: Instance) -> str:
        """The host that it was sent to, while that waits for a confirmation or a revert here; "" where it was resized in place."""
        note = transit.kept(self.rooms, instance.uuid)
        return str(note.get("dest", "")) if note else ""

    def ran_before(self, instance: Instance) -> bool:
        """Did it run when it was sent to another host, of which it waits for a confirmation or a revert here?"""
        note = transit.kept(self.rooms, instance.uuid)
        return bool(note and note.get("ran"))


def _sizes(flavor: Flavor) -> dict[str, int]:
    """What the flavor says of each disk, bytes; 0: nothing."""
    return {disk_names.ROOT: flavor.root, disk_names.LOCAL: flavor.ephemeral, disk_names.SWAP: flavor.swap}


def refuse_shrinking(entries: Entries, flavor: Flavor) -> None:
    """:raises DiskTooSmall: a disk would have to be cut"""
    for name, size in _sizes(flavor).items():
        entry = entries.get(name)
        if entry and size < entry.virtual_size and (size or name != disk_names.ROOT):
            raise DiskTooSmall(
                disk=name, size=size, needed=entry.virtual_size, hint="a disk can grow, but is never cut"
            )


def _lines(entries: Entries) -> list[dict[str, Any]]:
    return [leaving.whole_line(one) for one in entries.values()]  # what goes back has the snapshots inside


def _entries(note: Mapping[str, Any]) -> list[ManifestDisk]:
    from cowshed.disks import manifest

    return [manifest.disk(dict(line)) for line in note.get("lines", [])]
