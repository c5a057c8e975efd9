"""A new instance, running, or nothing of it: what ``spawn`` does, and ``rebuild`` for one whose host has died."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cowshed.contract.types import BlockDevices
from cowshed.driver.steps import (
    connect,
    filtering,
    host_state,
    launch,
    layout,
    locate,
    network_events,
    opening,
    provision,
    serial,
    shares,
    teardown,
    volume_checks,
    volumes,
)
from cowshed.errors import NameTaken
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.vif import Vif
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms


def build(
    rooms: Rooms,
    instance: Instance,
    image: Image,
    vifs: Sequence[Vif],
    block_devices: BlockDevices = None,
    *,
    files: Sequence[tuple[str, bytes | str]] = (),
    password: str | None = None,
) -> None:
    """:raises NameTaken: it is here already :raises HostUnsuitable: this host takes no new instances"""
    with Undo() as undo:
        directories = rooms.expected_shares.pop(instance.uuid, ())
        host_state.refuse_disabled(rooms)
        plan = layout.plan(rooms, instance, image, block_devices)
        _refuse_existing(rooms, instance)
        connect.check(rooms, vifs)
        filtering.check(rooms, instance, vifs)
        launch.check(rooms, instance, image, vifs, directories)
        volume_checks.foresee(rooms, instance, plan.volumes, image)
        metadata = provision.metadata(rooms, instance, image, plan, vifs, files, password)
        provision.directory(rooms, instance, undo, new=True)
        locate.remember_image(rooms, instance, image)
        layout.remember(rooms, instance, plan)
        provision.disks(rooms, instance, image, plan, undo)
        provision.config_drive(rooms, instance, metadata, encrypt=layout.encrypts(rooms, instance, image))
        with network_events.awaited(rooms, instance, vifs) as held:
            plugged = connect.plug(rooms, vifs, undo)
            undo.push("remove its packet filters", filtering.remove, rooms, instance, vifs)
            undo.push("let libvirt forget its keys", opening.forget_keys, rooms, instance)
            connected = volumes.connect_all(rooms, instance, plan.volumes, undo)
            undo.push("forget its shares", shares.forget, rooms, instance)
            shares.keep(rooms, instance, directories)
            opened = shares.open_all(rooms, instance, undo)
            undo.push("give the serial port back", serial.give_back, rooms, instance.uuid)
            # Before it is there: an interruption may come between any two lines.
            undo.push("undefine the domain", teardown.undefine, rooms, instance.uuid)
            undo.push("stop the guest", teardown.stop, rooms, instance.uuid)
            guest = launch.define(rooms, instance, image, plugged, connected, opened)
            launch.start_with(rooms, instance, guest, held=held)
        if held:
            launch.go_on(rooms, guest)


def _refuse_existing(rooms: Rooms, instance: Instance) -> None:
    """Before anything is touched: nobody's domain and nobody's disks are taken over."""
    if rooms.hypervisor.find(instance.uuid):
        raise NameTaken(kind="domain", name=f"{instance.name} ({instance.uuid})")
    if rooms.directory(instance.uuid).exists():
        raise NameTaken(kind="instance directory", name=rooms.directory(instance.uuid).path)
