"""The disks an instance is rescued with, and where all its disks stand meanwhile.

Two ways, as the rescue image says. The classic one: the rescue disk is the first, the old root the
second, and of its other disks none is there. The stable one, with ``hw_rescue_device`` or
``hw_rescue_bus`` on the image: every disk and volume stays where it is, and the rescue disk comes last
but is booted from. An instance that boots from a volume has no root disk to exchange and is rescued in
the stable way, whatever the image says.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from cowshed import log
from cowshed.domain import naming
from cowshed.driver.steps import layout, placing, reachable, volumes
from cowshed.driver.steps.disk_names import CDROM, CONFIG_DRIVE, KERNEL, LOCAL_BACKEND, RAMDISK, RESCUED, ROOT
from cowshed.driver.steps.placing import Place
from cowshed.errors import CowshedError, InvalidRequest, InvalidState
from cowshed.model.disk import Bus, Device, DiskFormat, DiskSpec
from cowshed.model.image import Image
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)

DEVICE, BUS = "hw_rescue_device", "hw_rescue_bus"
Word = TypeVar("Word", Device, Bus)


def refuse_rescued(rooms: Rooms, instance: Instance, action: str) -> None:
    """:raises InvalidState:"""
    if placing.rescued(rooms, instance.uuid):
        raise InvalidState(name=instance.name, state="rescued", action=action, hint="unrescue it first")


def plan(rooms: Rooms, instance: Instance, image: Image) -> layout.Plan:
    """The disks to be made; nothing is.

    :raises InvalidRequest: a property of the image is none of the known words
    """
    backend = _backend(rooms, instance)
    reachable.check(rooms, backend)
    section = rooms.config
    buses = naming.buses(image, disks=section.disks, guest=section.guest)
    device = _word(image, DEVICE, Device, Device.CDROM if image.disk_format == DiskFormat.ISO else Device.DISK)
    usual, device = buses.of(ROOT, device)
    bus = _word(image, BUS, Bus, usual)
    steady = stable(rooms, instance, image)
    names = naming.Names(_taken(rooms, instance) if steady else ())
    disk = DiskSpec(ROOT + RESCUED, 0, backend, image.id)
    planned = [
        layout.Planned(
            layout.secured(rooms, disk, encrypt=layout.encrypts(rooms, instance, image)),
            Place(names.take(bus), bus, device, boot_order=1, readonly=device == Device.CDROM),
        )
    ]
    for name, key in ((KERNEL, "kernel_id"), (RAMDISK, "ramdisk_id")):
        if ref := image.properties.get(key):
            planned.append(layout.Planned(DiskSpec(name + RESCUED, backend=LOCAL_BACKEND, image_id=ref)))
    if not steady:
        names.take(bus)  # the old root's
    config_bus, config_device = buses.of(CONFIG_DRIVE, Device.DISK)
    drive = Place(names.take(config_bus), config_bus, config_device, readonly=True)
    planned.append(layout.Planned(DiskSpec(CONFIG_DRIVE + RESCUED, backend=LOCAL_BACKEND), drive))
    return layout.Plan(tuple(planned))


def stable(rooms: Rooms, instance: Instance, image: Image) -> bool:
    """Do all disks stay where they are?"""
    return DEVICE in image.properties or BUS in image.properties or volumes.root(rooms, instance) is not None


def _taken(rooms: Rooms, instance: Instance) -> list[tuple[str, Bus]]:
    disks = [(place.target, place.bus) for place in _stable(rooms, instance).values()]
    return disks + [(volume.target, volume.bus) for volume in volumes.recorded(rooms, instance)]


def _backend(rooms: Rooms, instance: Instance) -> str:
    """Where the root disk is; for one that has none, where its disks shall be."""
    from cowshed.disks import manifest

    if volumes.root(rooms, instance):
        return instance.backend or rooms.config.disks.backend
    return manifest.require(rooms.directory(instance.uuid).path, _root(rooms, instance)).backend


def _word(image: Image, key: str, kind: type[Word], default: Word) -> Word:
    word = image.properties.get(key, default)
    try:
        return kind(word)
    except ValueError:
        raise InvalidRequest(reason=f"{key} cannot be {word!r}", hint=f"one of {', '.join(kind)}") from None


def _root(rooms: Rooms, instance: Instance) -> str:
    from cowshed.disks import manifest

    entries = manifest.load(rooms.directory(instance.uuid).path).disks
    return ROOT if ROOT in entries else CDROM


def _stable(rooms: Rooms, instance: Instance) -> dict[str, Place]:
    """As they are, but nothing of them is booted from."""
    found = placing.places_in(rooms, instance.uuid, placing.FILE)
    return {name: replace(place, boot_order=None) for name, place in found.items() if name != CONFIG_DRIVE}


def begin(rooms: Rooms, instance: Instance, image: Image, plan: layout.Plan) -> None:
    """From the next start on it boots from the rescue disks."""
    ours = {one.spec.name: one.place for one in plan.disks if one.place}
    if stable(rooms, instance, image):
        places = {**_stable(rooms, instance), **ours}
    else:
        rescue = ours[ROOT + RESCUED]
        root = naming.Names([(one.target, one.bus) for one in ours.values()]).take(rescue.bus)
        places = {**ours, _root(rooms, instance): Place(root, rescue.bus)}
    placing.remember_places(rooms, instance.uuid, places, placing.RESCUE_FILE)


def end(rooms: Rooms, uuid: str) -> None:
    """From the next start on it boots as it used to; not rescued is success."""
    from cowshed.tools import filesystem

    path = rooms.directory(uuid).path / placing.RESCUE_FILE
    if path.exists():
        filesystem.remove_file(path)


def delete_disks(rooms: Rooms, uuid: str) -> None:
    """The rescue disks; what fails is logged, and goes with the instance at the latest."""
    from cowshed.disks import manifest

    for entry in manifest.load(rooms.directory(uuid).path).disks.values():
        if not entry.name.endswith(RESCUED):
            continue
        try:
            rooms.backend(entry.backend).disk(uuid, entry.name).delete()
        except CowshedError as error:
            _log.warning("could not delete %s: %s", entry.name, error)
