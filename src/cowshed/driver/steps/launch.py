"""Assemble, define and start a domain; wait until it runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cowshed.driver.steps import (
    config_devices,
    connect,
    devices,
    filtering,
    locate,
    marks,
    moving,
    network_events,
    opening,
    placing,
    replacing,
    serial,
    shares,
    shown,
    standing,
    volumes,
)
from cowshed.errors import CowshedError, HostUnsuitable, PortInUse
from cowshed.model.disk import AttachedDisk
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.share import OpenedShare, Share
from cowshed.model.vif import PluggedVif, Vif
from cowshed.undo import Undo
from cowshed.units import format_size

if TYPE_CHECKING:
    from cowshed.domain.assemble import ConsolePlan
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest


START_ATTEMPTS = 3


def check(
    rooms: Rooms, instance: Instance, image: Image, vifs: Sequence[Vif], directories: Sequence[Share] = ()
) -> None:
    """Everything about the domain that can be refused before a disk is made.

    :raises InvalidRequest: :raises UnsupportedOperation: :raises HostUnsuitable:
    """
    from cowshed.domain import assemble

    check_memory(instance.flavor.memory)
    shares.check(rooms, instance, directories)
    assemble.check(
        instance,
        image,
        vifs=vifs,
        host=rooms.capabilities,
        guest=rooms.config.guest,
        consoles=_consoles(rooms, instance),
        shares=directories,
    )


def check_host(rooms: Rooms) -> None:
    """Before a guest is stopped that shall run again: this host still has what it is started with.

    :raises ConfigError: the emulator that is configured is of no use
    """
    rooms.capabilities  # noqa: B018 (found out once)


def check_memory(wanted: int) -> None:
    """:param wanted: bytes of a flavor :raises HostUnsuitable: QEMU would not be given them"""
    from cowshed.host import facts

    most = facts.most_memory()
    if most is not None and wanted > most:
        raise HostUnsuitable(
            reason=f"{format_size(wanted)} of memory are more than the {format_size(most)} this host has, swap included",
            hint="ask for less, or choose another host",
        )


def _consoles(rooms: Rooms, instance: Instance, serial_ports: tuple[int, ...] = ()) -> ConsolePlan:
    from cowshed.domain.assemble import ConsolePlan

    section = rooms.config.console
    return ConsolePlan(
        log=locate.console_log(rooms, instance.uuid),
        vnc=section.vnc,
        spice=section.spice,
        listen=section.listen,
        serial_ports=serial_ports,
    )


def define(
    rooms: Rooms,
    instance: Instance,
    image: Image,
    plugged: Sequence[PluggedVif],
    connected: Sequence[AttachedDisk] = (),
    opened: Sequence[OpenedShare] = (),
) -> Guest:
    """The domain of the instance as its manifest and its launch record say, defined in libvirt.

    :param connected: what shows the volumes
    :param opened: its shares
    """
    guest = rooms.hypervisor.define(assembled(rooms, instance, image, plugged, connected, opened))
    if config_devices.refresh(rooms, instance, guest):
        guest = rooms.hypervisor.define(assembled(rooms, instance, image, plugged, connected, opened))
    return guest


def assembled(
    rooms: Rooms,
    instance: Instance,
    image: Image,
    plugged: Sequence[PluggedVif],
    connected: Sequence[AttachedDisk] = (),
    opened: Sequence[OpenedShare] = (),
) -> str:
    """The domain's XML; its disks can be opened. Nothing is defined."""
    from cowshed.domain.assemble import assemble

    disks = opening.ready(rooms, instance)
    if placing.rescued(rooms, instance.uuid):
        connected = [replace(one, boot_order=None) for one in connected]  # the rescue disk is booted from
    domain = assemble(
        instance,
        image,
        disks=[*disks, *volumes.around(disks, connected)],
        vifs=filtering.hold(rooms, instance, plugged),
        host=rooms.capabilities,
        guest=rooms.config.guest,
        consoles=_consoles(rooms, instance, serial.take(rooms, instance.uuid)),
        directory=rooms.directory(instance.uuid).path,
        kernel=shown.kernel(rooms, instance, image),
        shares=opened,
    )
    return domain.to_xml()


def start(rooms: Rooms, guest: Guest, *, held: bool = False) -> None:
    """:raises DeadlineExceeded: QEMU was not running in time

    :param held: it stands still until :func:`go_on`

    libvirt looks for a free VNC port and QEMU takes it a moment later; another user's libvirt may
    have taken it in between, and then a new try finds the next one.
    """
    rooms.progress.phase("start")
    for attempt in range(1, START_ATTEMPTS + 1):
        try:
            begin(rooms, guest, held=held)
            break
        except PortInUse:
            if attempt == START_ATTEMPTS:
                raise
    if not held:
        go_on(rooms, guest)


def go_on(rooms: Rooms, guest: Guest) -> None:
    """A guest that has been started, and may stand still, runs. :raises DeadlineExceeded:"""
    if guest.state() == PowerState.PAUSED:
        guest.resume()
    guest.wait(PowerState.RUNNING, timeout=rooms.config.power.start_timeout, what=f"{guest.name} running")


def start_with(rooms: Rooms, instance: Instance, guest: Guest, *, held: bool = False) -> None:
    """As :func:`start`, of an instance whose shares are open. :raises ToolFailed: what serves one has ended"""
    try:
        start(rooms, guest, held=held)
    except CowshedError as error:
        raise shares.explained(rooms, instance, error) from error
    devices.note_sizes(rooms, instance, guest)


def begin(rooms: Rooms, guest: Guest, *, held: bool = False) -> None:
    """Start QEMU; paused where it is ``held``, and with its packet filters in force, where it has any."""
    filtered, saved = filtering.needed(rooms, guest), guest.has_saved()
    guest.start(paused=filtered or held)
    if not filtered:
        return
    try:
        filtering.enforce(rooms, guest)
    except BaseException:
        if saved:
            filtering.save(rooms, guest)  # paused as it is; it must not go on with an open network
        raise


def relaunch(
    rooms: Rooms,
    instance: Instance,
    vifs: Sequence[Vif],
    block_devices: Any = None,
    bad_volumes: Callable[[list[str]], None] | None = None,
) -> None:
    """Start a stopped instance from a fresh definition; a failure leaves it defined and stopped.

    Building the definition again repairs what has changed on the host since: emulator, firmware,
    network back end, virtualisation type.

    :param block_devices: its volumes; where it says nothing of them, they are those of the record
    :param bad_volumes: hears of volumes that are not to be had, instead of an error
    """
    marks.refuse_marked(rooms, instance)
    standing.ready(rooms, instance)
    image = locate.remembered_image(rooms, instance)
    replacing.settle(rooms, instance.uuid)
    moving.settle(rooms, instance)
    connect.check(rooms, vifs)
    filtering.check(rooms, instance, vifs)
    wanted = volumes.wanted(rooms, instance, image, block_devices)
    shares.check_recorded(rooms, instance)
    with Undo() as undo:
        with network_events.awaited(rooms, instance, vifs) as held:
            plugged = connect.plug(rooms, vifs, undo)
            undo.push("let go of the disks", opening.let_go, rooms, instance)
            connected = volumes.connect_all(rooms, instance, wanted, undo, bad=bad_volumes)
            opened = shares.open_all(rooms, instance, undo)
            guest = define(rooms, instance, image, plugged, connected, opened)
            undo.push("stop the guest", guest.destroy)
            start_with(rooms, instance, guest, held=held)
        if held:
            go_on(rooms, guest)
    shares.unmount_unused(rooms)
