"""Disk: local storage of an instance; the values that describe one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class DiskFormat(StrEnum):
    """Our names; ``tools.qemu_img.DRIVER`` maps them to QEMU's block drivers."""

    RAW = "raw"
    QCOW2 = "qcow2"
    ISO = "iso"
    PLOOP = "ploop"
    AKI = "aki"
    ARI = "ari"
    AMI = "ami"


class DiskType(StrEnum):
    """libvirt's ``<disk type=...>``."""

    FILE = "file"
    BLOCK = "block"
    NETWORK = "network"


class Bus(StrEnum):
    VIRTIO = "virtio"
    SCSI = "scsi"
    SATA = "sata"
    IDE = "ide"
    USB = "usb"
    FDC = "fdc"


class Device(StrEnum):
    """libvirt's ``<disk device=...>``."""

    DISK = "disk"
    CDROM = "cdrom"
    FLOPPY = "floppy"
    LUN = "lun"


class Preallocation(StrEnum):
    OFF = "off"
    METADATA = "metadata"
    FALLOC = "falloc"
    FULL = "full"


class CacheMode(StrEnum):
    DEFAULT = "default"
    NONE = "none"
    WRITETHROUGH = "writethrough"
    WRITEBACK = "writeback"
    DIRECTSYNC = "directsync"
    UNSAFE = "unsafe"


@dataclass(frozen=True, slots=True)
class Base:
    """A verified image in the cache, in the format a backend needs. Never changes once it exists.

    ``path`` is complete and durable; ``virtual_size`` in bytes; ``digest`` is ``sha256:<hex>`` of
    the base as recorded when it was made; ``image_id`` names the image it was made from.
    """

    path: Path
    format: DiskFormat
    virtual_size: int
    digest: str = ""
    image_id: str = ""


@dataclass(frozen=True, slots=True)
class DiskSpec:
    """One disk that an instance shall have. ``size`` in bytes, 0 = as large as the image.

    ``name`` is the logical name: ``disk`` (root), ``disk.local``, ``disk.eph<N>``, ``disk.swap``,
    ``disk.config``, ``kernel``, ``ramdisk``. ``backend`` "" = the instance's.
    """

    name: str
    size: int = 0
    backend: str = ""
    image_id: str = ""
    filesystem: str = ""
    label: str = ""


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """``virtual_size`` is what the guest sees, ``allocated`` what the storage holds (bytes)."""

    format: DiskFormat
    virtual_size: int
    allocated: int
    backing_path: str | None = None
    backing_format: DiskFormat | None = None


@dataclass(frozen=True, slots=True)
class NetworkHost:
    name: str
    port: int | None = None


@dataclass(frozen=True, slots=True)
class DiskSource:
    """All that domain XML needs to open a disk; formats are always explicit.

    ``path`` for file and block; ``protocol``, ``name``, ``hosts``, ``auth_user``, ``secret_uuid``
    for network. ``backing`` is the parent, so that nothing is probed down the chain.
    """

    type: DiskType
    format: DiskFormat
    path: Path | None = None
    protocol: str = ""
    name: str = ""
    hosts: tuple[NetworkHost, ...] = ()
    auth_user: str = ""
    secret_uuid: str = ""
    backing: DiskSource | None = None


@dataclass(frozen=True, slots=True)
class IoTune:
    """libvirt's ``<iotune>``; bytes and operations per second, seconds for the lengths."""

    total_bytes_sec: int | None = None
    read_bytes_sec: int | None = None
    write_bytes_sec: int | None = None
    total_iops_sec: int | None = None
    read_iops_sec: int | None = None
    write_iops_sec: int | None = None
    total_bytes_sec_max: int | None = None
    read_bytes_sec_max: int | None = None
    write_bytes_sec_max: int | None = None
    total_iops_sec_max: int | None = None
    read_iops_sec_max: int | None = None
    write_iops_sec_max: int | None = None
    total_bytes_sec_max_length: int | None = None
    read_bytes_sec_max_length: int | None = None
    write_bytes_sec_max_length: int | None = None
    total_iops_sec_max_length: int | None = None
    read_iops_sec_max_length: int | None = None
    write_iops_sec_max_length: int | None = None
    size_iops_sec: int | None = None
    group_name: str | None = None


@dataclass(frozen=True, slots=True)
class AttachedDisk:
    """A disk as the domain shall show it to the guest."""

    source: DiskSource
    target: str
    bus: Bus = Bus.VIRTIO
    device: Device = Device.DISK
    boot_order: int | None = None
    serial: str = ""
    alias: str = ""
    readonly: bool = False
    shareable: bool = False
    cache: CacheMode = CacheMode.DEFAULT
    io: str | None = None
    discard: str | None = None
    detect_zeroes: str | None = None
    iotune: IoTune | None = None
    unit: int | None = None


@dataclass(frozen=True, slots=True)
class ManifestDisk:
    """What the manifest says of one disk: the authority on its format, place, size and parent."""

    name: str
    backend: str
    format: DiskFormat
    location: str
    virtual_size: int
    base_path: str | None = None
    base_format: DiskFormat | None = None
    base_digest: str | None = None
    image_id: str = ""
    encryption: str | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """One per instance: ``instances/<uuid>/manifest.json``."""

    instance: str
    disks: Mapping[str, ManifestDisk] = field(default_factory=dict)
    version: int = 1


@dataclass(frozen=True, slots=True)
class Capacity:
    """Of one backend, in bytes."""

    total: int
    free: int
    used: int
