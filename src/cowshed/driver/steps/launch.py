"""Assemble, define and start a domain; wait until it runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from cowshed.driver.steps import connect, layout, locate
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import PluggedVif, Vif
from cowshed.undo import Undo

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest


def define(rooms: Rooms, instance: Instance, image: Image, plugged: Sequence[PluggedVif]) -> Guest:
    """The domain of the instance as its manifest and its launch record say, defined in libvirt."""
    from cowshed.domain.assemble import ConsolePlan, assemble

    domain = assemble(
        instance,
        image,
        disks=layout.attached(rooms, instance),
        vifs=plugged,
        host=rooms.capabilities,
        guest=rooms.config.guest,
        consoles=ConsolePlan(
            log=locate.console_log(rooms, instance.uuid),
            vnc=rooms.config.console.vnc,
            spice=rooms.config.console.spice,
            listen=rooms.config.console.listen,
        ),
        directory=rooms.directory(instance.uuid).path,
        kernel=layout.kernel(rooms, instance, image),
    )
    return rooms.hypervisor.define(domain.to_xml())


def start(rooms: Rooms, guest: Guest) -> None:
    """:raises DeadlineExceeded: QEMU was not running in time"""
    rooms.progress.phase("start")
    guest.start()
    guest.wait(PowerState.RUNNING, timeout=rooms.config.power.start_timeout, what=f"{guest.name} running")


def relaunch(rooms: Rooms, instance: Instance, vifs: Sequence[Vif]) -> None:
    """Start a stopped instance from a fresh definition; a failure leaves it defined and stopped.

    Building the definition again repairs what has changed on the host since: emulator, firmware,
    network back end, virtualisation type.
    """
    image = locate.remembered_image(rooms, instance)
    connect.check(rooms, vifs)
    with Undo() as undo:
        plugged = connect.plug(rooms, vifs, undo)
        guest = define(rooms, instance, image, plugged)
        undo.push("stop the guest", guest.destroy)
        start(rooms, guest)
