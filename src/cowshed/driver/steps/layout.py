"""Which disks a new instance has, and where each will stand in the guest.

The plan is made once, at spawn, from the flavor, the image and the request. It is written beside
the disks, so that a later start shows the guest the same devices whatever the host's
configuration says by then. Format, place and parent of each disk are in the manifest.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from cowshed.contract import block_device
from cowshed.domain import drive, naming
from cowshed.domain.properties import Properties
from cowshed.driver.steps import mapping, placing, reachable, volume_checks, volumes
from cowshed.driver.steps.disk_names import (
    CDROM,
    CONFIG_DRIVE,
    EPHEMERAL,
    KERNEL,
    LOCAL,
    LOCAL_BACKEND,
    LOCAL_ONLY,
    RAMDISK,
    ROOT,
    SWAP,
    disk_name,
)
from cowshed.driver.steps.placing import Place
from cowshed.errors import InvalidRequest, UnsupportedOperation
from cowshed.model.disk import Device, DiskFormat, DiskSpec
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.volume import AttachedVolume
from cowshed.units import GiB, MiB

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms


@dataclass(frozen=True, slots=True)
class Planned:
    """A disk to be made; without ``place`` the guest does not see it as a disk (kernel, ramdisk)."""

    spec: DiskSpec
    place: Place | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """``volumes`` are named and placed as the disks are, and still to be connected."""

    disks: tuple[Planned, ...]
    volumes: tuple[AttachedVolume, ...] = ()


def plan(rooms: Rooms, instance: Instance, image: Image, block_devices: Any) -> Plan:
    """All disks of a new instance, named and placed; nothing is made.

    :raises InvalidRequest: a bus has no room left, or the machine lacks it
    :raises DiskTooSmall:
    :raises NotFound: the place of a backend is not there
    :raises UnsupportedOperation: guests here cannot open such a disk, or it cannot be encrypted
    """
    from cowshed.driver.steps import driving, provision

    asked = mapping.entries(block_devices) or []
    volume_checks.refuse_double(asked)
    root = mapping.root_volume(block_devices)
    if root is None:
        provision.check_sizes(instance, image)
    else:
        _check_root(root)
    backends = _Backends(rooms, instance)
    buses = naming.buses(image, disks=rooms.config.disks, guest=rooms.config.guest)
    names = naming.Names()
    first = volume_checks.plan(rooms, image, names, [one for one in asked if one.name or one == root])
    planned = []
    encrypt = encrypts(rooms, instance, image)
    for wanted, device in _specs(rooms, instance, image, block_devices):
        if root and wanted.name in (ROOT, CDROM):
            continue
        spec = secured(rooms, backends.chosen(wanted), encrypt=encrypt)
        reachable.check(rooms, spec.backend)
        if spec.name in (KERNEL, RAMDISK):
            planned.append(Planned(spec))
            continue
        bus, device = buses.of(spec.name, device)
        planned.append(
            Planned(spec, Place(names.take(bus), bus, device, _boot_order(spec.name), _readonly(spec.name, device)))
        )
    backends.check_all_used()
    rest = volume_checks.plan(rooms, image, names, [one for one in asked if not one.name and one != root])
    made = Plan(tuple(planned), (*first, *rest))
    driving.check(rooms, instance, image, {one.spec.name: one.place for one in planned if one.place})
    return made


def _check_root(root: mapping.Asked) -> None:
    """:raises InvalidRequest: it may not be written to, and is no cdrom"""
    from cowshed.volumes import info, shape

    if shape.read_only(root.info) and root.device != Device.CDROM:
        raise InvalidRequest(
            reason=f"volume {info.volume_id(root.info)} is read-only, and a root disk is written to",
            hint="let it be written to; what is only read can be a cdrom",
        )


def encrypts(rooms: Rooms, instance: Instance, image: Image) -> bool:
    """Shall its disks be encrypted: does the instance, its flavor, its image or this host want it?

    :raises InvalidRequest: in a way that no backend has
    """
    asked = drive.encrypted(Properties.of(image, instance))
    return instance.encrypt or (rooms.config.disks.encrypt if asked is None else asked)


def secured(rooms: Rooms, spec: DiskSpec, *, encrypt: bool) -> DiskSpec:
    """What holds nothing but an image's bytes, which the cache has in plaintext, is left as it is.

    :raises UnsupportedOperation: its backend cannot encrypt
    """
    if not encrypt or spec.name in (CDROM, KERNEL, RAMDISK):
        return spec
    traits = rooms.backend(spec.backend).traits
    if not traits.encrypts:
        raise UnsupportedOperation(
            subject=f"backend {traits.name}",
            operation="encrypt disks",
            reason="it has no way to",
            hint="put the instance on another backend; cowshed backends says which encrypt",
        )
    return dataclasses.replace(spec, encrypt=True)


class _Backends:
    """On which backend each disk of a new instance shall be: recorded in the plan, then in the manifest."""

    def __init__(self, rooms: Rooms, instance: Instance) -> None:
        self._rooms = rooms
        self._usual = instance.backend or rooms.config.disks.backend
        self._wanted = {disk_name(word): backend for word, backend in instance.disk_backends.items()}
        self._left = dict(self._wanted)
        self._there: set[str] = set()

    def chosen(self, spec: DiskSpec) -> DiskSpec:
        """:raises ConfigError: :raises InvalidRequest: there is no such backend here :raises NotFound: nor its place"""
        if spec.name in LOCAL_ONLY:
            return spec
        self._left.pop(spec.name, None)
        backend = self._wanted.get(spec.name) or self._usual
        self._check(backend)
        return dataclasses.replace(spec, backend=backend)

    def _check(self, name: str) -> None:
        """Of disks that are devices, whether one exists is read from their records: that says nothing of the place."""
        backend = self._rooms.backend(name)
        if backend.traits.block and name not in self._there:
            backend.capacity()
            self._there.add(name)

    def check_all_used(self) -> None:
        """:raises InvalidRequest: a backend was asked for a disk that is not there"""
        for name, backend in self._left.items():
            raise InvalidRequest(
                reason=f"the disk {name} shall be on {backend}, but the instance has no such disk of its own",
                hint="root, ephemeral, swap, cdrom and eph0 may be named, as far as they are asked for",
            )


def _readonly(name: str, device: Device) -> bool:
    return device == Device.CDROM or name == CONFIG_DRIVE


def _boot_order(name: str) -> int | None:
    return {CDROM: 1, ROOT: 2}.get(name)


def _specs(rooms: Rooms, instance: Instance, image: Image, block_devices: Any) -> list[tuple[DiskSpec, Device]]:
    return [
        *_kernel_specs(instance, image),
        *_root_specs(instance, image),
        *_blank_specs(rooms, instance, block_devices),
        *_config_drive_spec(rooms, instance, image),
    ]


def _kernel_specs(instance: Instance, image: Image) -> list[tuple[DiskSpec, Device]]:
    kernel = instance.kernel_id or image.properties.get("kernel_id", "")
    ramdisk = instance.ramdisk_id or image.properties.get("ramdisk_id", "")
    named = [(KERNEL, kernel), (RAMDISK, ramdisk)]
    return [(DiskSpec(name, backend=LOCAL_BACKEND, image_id=ref), Device.DISK) for name, ref in named if ref]


def _root_specs(instance: Instance, image: Image) -> list[tuple[DiskSpec, Device]]:
    """An ISO is a cdrom to boot from, beside an empty root disk where one was asked for."""
    if image.disk_format != DiskFormat.ISO:
        return [(DiskSpec(ROOT, instance.flavor.root, instance.backend, image.id), Device.DISK)]
    specs = [(DiskSpec(CDROM, 0, instance.backend, image.id), Device.CDROM)]
    if instance.flavor.root:
        specs.append((DiskSpec(ROOT, instance.flavor.root, instance.backend), Device.DISK))
    return specs


def _blank_specs(rooms: Rooms, instance: Instance, block_devices: Any) -> list[tuple[DiskSpec, Device]]:
    usual = rooms.config.disks.ephemeral_filesystem
    specs = []
    if asked := block_device.block_device_info_get_ephemerals(block_devices):
        for number, one in enumerate(asked):
            size = _of(one, "size") * GiB
            kind = _of(one, "guest_format") or usual
            specs.append(DiskSpec(f"{EPHEMERAL}{number}", size, instance.backend, "", kind, f"ephemeral{number}"))
    elif instance.flavor.ephemeral:
        specs.append(DiskSpec(LOCAL, instance.flavor.ephemeral, instance.backend, "", usual, "ephemeral0"))
    swap = block_device.block_device_info_get_swap(block_devices)
    size = _of(swap, "swap_size") * MiB if block_device.swap_is_usable(swap) else instance.flavor.swap
    if size:
        specs.append(DiskSpec(SWAP, size, instance.backend, "", "swap", "swap"))
    return [(spec, Device.DISK) for spec in specs]


def _of(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, Mapping) else getattr(item, name)


def _config_drive_spec(rooms: Rooms, instance: Instance, image: Image) -> list[tuple[DiskSpec, Device]]:
    """Also where it is switched off, when there is something to tell the guest: that must not get lost."""
    mandatory = image.properties.get("img_config_drive") == "mandatory"
    told = instance.user_data or instance.vendor_data or instance.key_data
    if not (instance.config_drive or rooms.config.guest.config_drive or mandatory or told):
        return []
    return [(DiskSpec(CONFIG_DRIVE, backend=LOCAL_BACKEND), Device.DISK)]


# --- beside the disks -----------------------------------------------------------------------------


def remember(rooms: Rooms, instance: Instance, plan: Plan) -> None:
    """Write where the disks of the instance stand."""
    placing.remember_places(rooms, instance.uuid, {one.spec.name: one.place for one in plan.disks if one.place})


def root_exists(rooms: Rooms, instance: Instance) -> bool:
    """Is the root disk of the instance here, or the record of the volume it boots from?

    :raises ConfigError: it is on a backend that is not configured any more
    """
    from cowshed.disks import manifest

    entries = manifest.load(rooms.directory(instance.uuid).path).disks
    name = ROOT if ROOT in entries else CDROM
    if volumes.root(rooms, instance):
        return True
    return name in entries and rooms.backend(entries[name].backend).disk(instance.uuid, name).exists()
