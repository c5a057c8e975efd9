"""Disks that come to a guest that is there already, and what it has."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from math import ceil
from typing import TYPE_CHECKING

from cowshed import log
from cowshed.errors import CowshedError, HypervisorError
from cowshed.model.disk import AttachedDisk, Bus
from cowshed.model.instance import Instance
from cowshed.model.volume import AttachedVolume

if TYPE_CHECKING:
    from cowshed.domain.disk import Disk
    from cowshed.domain.naming import Names
    from cowshed.driver.rooms import Rooms
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

Look = Callable[[str], "Disk | None"]


def patience(rooms: Rooms, timeout: float | None) -> tuple[float, int]:
    """Seconds that a guest has for each attempt to take a device from it, and how many there are.

    :param timeout: seconds for all of them together; None: as configured
    """
    section = rooms.config.volumes
    if timeout is None:
        return section.detach_timeout, section.detach_attempts
    attempts = ceil(timeout / section.detach_timeout) or 1
    return timeout / attempts, attempts


def names(guest: Guest) -> Names:
    """The names that are free in the running guest and in its definition."""
    from cowshed.domain.domain import Domain
    from cowshed.domain.naming import Names
    from cowshed.driver.steps import mapping

    texts = {guest.xml(), guest.xml(inactive=True)}
    return Names([pair for text in texts for pair in mapping.taken(Domain.parse(text).disks)])


def attach(guest: Guest, disk: AttachedDisk, look: Look) -> None:
    """:raises HypervisorError: libvirt says yes, and it is not there"""
    from cowshed.domain.disk import disk as element

    if disk.bus == Bus.SCSI:
        _scsi_controller(guest)
    guest.devices.attach(element(disk).to_xml())
    if look(guest.xml()) is None:
        raise HypervisorError(
            action=f"attach {disk.target} to {guest.name}", reason="it is not in the domain", number=0
        )


def _scsi_controller(guest: Guest) -> None:
    """Where there is none, libvirt would add an LSI one, which cloud kernels do not know."""
    from cowshed.domain.controller import Controller
    from cowshed.domain.domain import Domain

    if not any(one.type == "scsi" for one in Domain.parse(guest.xml()).controllers):
        guest.devices.attach(Controller(type="scsi", index=0, model="virtio-scsi").to_xml())


def note_sizes(rooms: Rooms, instance: Instance, guest: Guest) -> None:
    """Into the record, what a running guest sees of its volumes: when it has ended, storage behind a network is not asked.

    What fails is logged.
    """
    from cowshed.driver.steps import volumes
    from cowshed.volumes import record

    try:
        known = volumes.recorded(rooms, instance)
        seen = sizes(guest, known) if known else {}
        for volume in known:
            if seen.get(volume.id, volume.size) != volume.size:
                record.save(volumes.directory(rooms, instance), replace(volume, size=seen[volume.id]))
    except CowshedError as error:
        _log.info("the sizes of the volumes of %s are not noted: %s", instance.name, error)


def sizes(guest: Guest | None, volumes: Sequence[AttachedVolume]) -> dict[str, int]:
    """Bytes of each volume as the guest sees it, by id; what cannot be told now is left out."""
    from cowshed.driver.steps.volumes import finder

    if guest is None or guest.ended():
        return {}
    xml, found = guest.xml(), {}
    for volume in volumes:
        try:
            if disk := finder(volume)(xml):
                found[volume.id] = guest.block_jobs.capacity(disk.target or volume.target)
        except CowshedError:
            continue
    return found
