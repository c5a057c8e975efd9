"""The disks of an instance as its domain shows them: from the records beside them, whatever the configuration says by now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from cowshed.domain import drive
from cowshed.domain.properties import Properties
from cowshed.driver.steps.disk_names import KERNEL, RAMDISK, RESCUED
from cowshed.driver.steps.placing import remembered, rescued
from cowshed.model.disk import AttachedDisk
from cowshed.model.image import Image
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.domain.assemble import KernelBoot
    from cowshed.driver.rooms import Rooms


def alias(name: str) -> str:
    """What libvirt calls the disk ``name``, wherever the guest sees it."""
    return f"ua-{name.replace('.', '-')}"


def attached(rooms: Rooms, instance: Instance) -> list[AttachedDisk]:
    """The disks as the domain shows them, from the record and the manifest."""
    from cowshed.disks import manifest
    from cowshed.driver.steps import driving, limits, locate

    entries = manifest.load(rooms.directory(instance.uuid).path).disks
    places = remembered(rooms, instance)
    properties = Properties.of(locate.remembered_image(rooms, instance), instance)
    threads = drive.threads(properties, rooms.config.disks, [place.bus for place in places.values()])
    tuned = limits.of_disks(rooms, instance, places)
    disks = []
    for number, (name, place) in enumerate(places.items()):
        source = rooms.backend(entries[name].backend if name in entries else "").disk(instance.uuid, name).source()
        disks.append(
            AttachedDisk(
                source=source,
                target=place.target,
                bus=place.bus,
                device=place.device,
                boot_order=place.boot_order,
                alias=alias(name),
                readonly=place.readonly,
                iothread=number % threads + 1 if threads and place.bus in drive.THREADED else None,
                iotune=tuned.get(name),
                **driving.options(rooms, properties, name),
            )
        )
    return disks


def kernel(rooms: Rooms, instance: Instance, image: Image) -> KernelBoot | None:
    """Kernel and ramdisk, where the instance boots them directly."""
    from cowshed.disks import manifest
    from cowshed.domain.assemble import KernelBoot

    directory = rooms.directory(instance.uuid).path
    entries = manifest.load(directory).disks
    end = RESCUED if rescued(rooms, instance.uuid) else ""
    if KERNEL + end not in entries:
        return None
    return KernelBoot(
        directory / entries[KERNEL + end].location,
        directory / entries[RAMDISK + end].location if RAMDISK + end in entries else None,
        image.properties.get("os_command_line", ""),
    )
