"""Volumes and the block device info the contract passes with an instance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from cowshed.model.disk import Bus, Device, Encryption


@dataclass(frozen=True, slots=True)
class Swap:
    """``swap_size`` in MiB (the contract's unit)."""

    device_name: str | None = None
    swap_size: int = 0
    disk_bus: str | None = None


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """``size`` in GiB (the contract's unit); ``guest_format`` names the file system."""

    device_name: str | None = None
    size: int = 0
    guest_format: str | None = None
    disk_bus: str | None = None
    device_type: str | None = None


@dataclass(frozen=True, slots=True)
class BlockDeviceInfo:
    """The contract's ``block_device_info`` as a value; dictionaries are accepted beside it."""

    root_device_name: str | None = None
    swap: Swap | None = None
    ephemerals: tuple[Ephemeral, ...] = ()
    block_device_mapping: tuple[Mapping[str, Any], ...] = field(default=())


ROOT_ORDER: Final = 2
"""Where the volume an instance boots from stands among what it may boot from: a cdrom goes before."""


class VolumeState(StrEnum):
    """How far a volume's way to the guest has come."""

    CONNECTING = "connecting"
    ATTACHED = "attached"
    DETACHING = "detaching"


@dataclass(frozen=True, slots=True)
class AttachedVolume:
    """A volume of an instance, as it is written beside the instance's disks.

    ``connection_info`` has the volume service's shape (``driver_volume_type`` and ``data``) without
    passwords. ``size`` is what a guest, or the storage, had of it in bytes when that was last seen; 0: never. ``target`` is the device name without ``/dev/``, ``serial`` what the guest reads,
    ``alias`` what libvirt's events carry. ``key_id`` of ``encryption`` names libvirt's secret.
    """

    id: str
    connection_info: Mapping[str, Any]
    target: str
    bus: Bus = Bus.VIRTIO
    device: Device = Device.DISK
    serial: str = ""
    alias: str = ""
    boot_order: int | None = None
    encryption: Encryption | None = None
    tag: str = ""
    size: int = 0
    state: VolumeState = VolumeState.ATTACHED

    @property
    def is_root(self) -> bool:
        """Does the instance boot from it, in place of a root disk of its own?"""
        return self.boot_order == ROOT_ORDER
