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


class EncryptionFormat(StrEnum):
    """LUKS is QEMU's own (LUKS1 header, inside QEMU); LUKS2 and PLAIN are dm-crypt's, under the volume."""

    LUKS = "luks"
    LUKS2 = "luks2"
    PLAIN = "plain"


@dataclass(frozen=True, slots=True)
class Encryption:
    """How a disk is encrypted. The key itself is in the key source under ``key_id`` (a UUID), never here.

    ``parameters`` are pinned when the disk is made (``cipher``, ``key-size``, ``hash``, ...): it must
    open the same way after the tool's defaults have changed.
    """

    format: EncryptionFormat
    key_id: str
    parameters: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Base:
    """A verified image in the format a backend needs. Never changes once it exists.

    It lies in the cache (``path`` is complete and durable), or in the storage of a backend that
    keeps its own (``location``: ``vg/lv``, ``pool/image@snapshot``; ``path`` is empty unless there
    is a device). ``virtual_size`` in bytes; ``digest`` is that of the base as recorded when it was
    made; ``image_id`` names the image it was made from, ``source_digest`` (``<algorithm>:<hex>``)
    is over that image's stored bytes.
    """

    path: Path
    format: DiskFormat
    virtual_size: int
    digest: str = ""
    image_id: str = ""
    location: str = ""
    source_digest: str = ""


@dataclass(frozen=True, slots=True)
class KeptBase:
    """A base in a backend's own storage. ``allocated`` in bytes; ``users``: how many disks stand on it."""

    name: str
    base: Base
    allocated: int
    users: int


@dataclass(frozen=True, slots=True)
class DiskSnapshot:
    """A point in time of one disk. ``created`` in seconds since the epoch, ``virtual_size`` in bytes then."""

    name: str
    created: float
    virtual_size: int
    parent: str | None = None


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
    encrypt: bool = False


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """``virtual_size`` is what the guest sees, ``allocated`` what the storage holds (bytes)."""

    format: DiskFormat
    virtual_size: int
    allocated: int
    backing_path: str | None = None
    backing_format: DiskFormat | None = None
    encryption: Encryption | None = None


@dataclass(frozen=True, slots=True)
class NetworkHost:
    """A server, by name and port, or by the path of its unix ``socket`` on this host."""

    name: str = ""
    port: int | None = None
    socket: Path | None = None


@dataclass(frozen=True, slots=True)
class DiskSource:
    """All that domain XML needs to open a disk; formats are always explicit.

    ``path`` for file and block; ``protocol``, ``name``, ``hosts``, ``auth_user``, ``secret_uuid``
    for network, ``initiator`` (an IQN) for iSCSI. ``backing`` is the parent, so that nothing is probed down the chain. ``encryption``
    only where QEMU itself must decrypt.
    """

    type: DiskType
    format: DiskFormat
    path: Path | None = None
    protocol: str = ""
    name: str = ""
    hosts: tuple[NetworkHost, ...] = ()
    auth_user: str = ""
    secret_uuid: str = ""
    initiator: str = ""
    backing: DiskSource | None = None
    encryption: Encryption | None = None


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
    """A disk as the domain shall show it to the guest. Block sizes in bytes, None: QEMU's (512)."""

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
    iothread: int | None = None
    unit: int | None = None
    logical_block_size: int | None = None
    physical_block_size: int | None = None


@dataclass(frozen=True, slots=True)
class ManifestDisk:
    """What the manifest says of one disk: the authority on its format, place, size and parent.

    ``location`` is the backend's own word for the place: a file name in the instance's directory,
    ``vg/lv``, ``pool[/namespace]/image``. ``base_path`` is set where the base is a file.
    ``snapshots`` (oldest first) where the storage keeps no such list itself; ``snapshot`` is the one
    the present content began as. While ``rolling_back`` is set, the content is becoming that of the
    snapshot it names, and whoever finds it so finishes that.
    """

    name: str
    backend: str
    format: DiskFormat
    location: str
    virtual_size: int
    base_path: str | None = None
    base_format: DiskFormat | None = None
    base_digest: str | None = None
    image_id: str = ""
    encryption: Encryption | None = None
    snapshots: tuple[DiskSnapshot, ...] = ()
    snapshot: str | None = None
    rolling_back: str | None = None

    @property
    def base_name(self) -> str:
        """What its base is called in the cache of any host; "" where there is none."""
        return Path(self.base_path or "").name


@dataclass(frozen=True, slots=True)
class LocalDisk:
    """A disk of an instance as people want to see it. Sizes in bytes.

    ``target``, ``bus`` and ``device`` are where the guest sees it; empty for a kernel or ramdisk.
    """

    name: str
    backend: str
    format: DiskFormat
    location: str
    virtual_size: int
    allocated: int
    target: str = ""
    bus: str = ""
    device: str = ""
    readonly: bool = False
    base: str = ""
    image_id: str = ""
    encryption: str = ""
    limits: IoTune | None = None
    snapshots: tuple[DiskSnapshot, ...] = ()


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
