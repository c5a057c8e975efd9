"""Disks: every format is written, down the whole chain, so that QEMU and libvirt probe nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Final

from cowshed.domain.address import Address
from cowshed.domain.drive import UNCACHED
from cowshed.domain.element import Element, child, children, present, record, value
from cowshed.domain.naming import index
from cowshed.errors import InvalidRequest
from cowshed.model.disk import (
    AttachedDisk,
    Bus,
    CacheMode,
    Device,
    DiskFormat,
    DiskSource,
    DiskType,
    Encryption,
    EncryptionFormat,
    IoTune,
    NetworkHost,
)

# QEMU's block drivers for our formats; an ISO image is raw bytes to it.
DRIVER: Final = {
    DiskFormat.RAW: "raw",
    DiskFormat.ISO: "raw",
    DiskFormat.AKI: "raw",
    DiskFormat.ARI: "raw",
    DiskFormat.AMI: "raw",
    DiskFormat.QCOW2: "qcow2",
    DiskFormat.PLOOP: "ploop",
}
_SECRET: Final = {"rbd": "ceph", "iscsi": "iscsi"}
_PASSPHRASE: Final = "passphrase"  # noqa: S105 - the kind of a secret


@dataclass(frozen=True, slots=True, kw_only=True)
class Host(Element):
    """``<host>`` in a network source: a server's address."""

    TAG: ClassVar[str] = "host"

    name: str | None = value("@name")
    port: int | None = value("@port")
    transport: str | None = value("@transport")
    socket: Path | None = value("@socket")


@dataclass(frozen=True, slots=True, kw_only=True)
class Auth(Element):
    """``<auth>``: who we are to the server, and which secret proves it."""

    TAG: ClassVar[str] = "auth"

    username: str | None = value("@username")
    secret_type: str | None = value("secret/@type")
    secret_uuid: str | None = value("secret/@uuid")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceEncryption(Element):
    """QEMU decrypts it, with the key of a secret of libvirt."""

    TAG: ClassVar[str] = "encryption"

    format: EncryptionFormat | None = value("@format")
    secret_type: str | None = value("secret/@type")
    secret_uuid: str | None = value("secret/@uuid")


@dataclass(frozen=True, slots=True, kw_only=True)
class Source(Element):
    """``<source>``: where the content of one layer is."""

    TAG: ClassVar[str] = "source"

    file: Path | None = value("@file")
    dev: Path | None = value("@dev")
    protocol: str | None = value("@protocol")
    name: str | None = value("@name")
    hosts: tuple[Host, ...] = children()
    initiator: str | None = value("initiator/iqn/@name")
    auth: Auth | None = child()
    encryption: SourceEncryption | None = child()


@dataclass(frozen=True, slots=True, kw_only=True)
class Backing(Element):
    """The parent of an overlay; an empty one ends the chain."""

    TAG: ClassVar[str] = "backingStore"

    type: DiskType | None = value("@type")
    format: str | None = value("format/@type")
    source: Source | None = child()
    backing: Backing | None = child()


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk(Element):
    """``<disk>``: one that a guest sees, with its chain."""

    TAG: ClassVar[str] = "disk"

    type: DiskType | None = value("@type")
    device: Device = value("@device", Device.DISK)
    driver: str | None = value("driver/@name")
    format: str | None = value("driver/@type")
    cache: CacheMode | None = value("driver/@cache")
    io: str | None = value("driver/@io")
    discard: str | None = value("driver/@discard")
    detect_zeroes: str | None = value("driver/@detect_zeroes")
    iothread: int | None = value("driver/@iothread")
    source: Source | None = child()
    backing: Backing | None = child()
    target: str | None = value("target/@dev")
    bus: Bus | None = value("target/@bus")
    iotune: IoTune | None = record("iotune")
    logical_block_size: int | None = value("blockio/@logical_block_size")
    physical_block_size: int | None = value("blockio/@physical_block_size")
    readonly: bool = present("readonly")
    shareable: bool = present("shareable")
    serial: str | None = value("serial")
    boot_order: int | None = value("boot/@order")
    alias: str | None = value("alias/@name")
    address: Address | None = child()


# --- from and to the model --------------------------------------------------------------------


def disk(attached: AttachedDisk) -> Disk:
    """The element of ``attached``.

    :raises InvalidRequest: the source lacks what its type needs
    """
    source = attached.source
    node = source_of(source)
    removable = attached.device in (Device.CDROM, Device.FLOPPY)
    return Disk(
        type=source.type,
        device=attached.device,
        driver="qemu",
        format=DRIVER[source.format],
        cache=_cache(attached),
        io=_io(attached),
        discard=None if removable else attached.discard,
        detect_zeroes=None if removable else attached.detect_zeroes,
        iothread=attached.iothread if attached.bus == Bus.VIRTIO else None,
        source=node,
        backing=backing_of(source.backing),
        target=attached.target,
        bus=attached.bus,
        iotune=attached.iotune,
        logical_block_size=attached.logical_block_size,
        physical_block_size=attached.physical_block_size,
        readonly=attached.readonly or attached.device == Device.CDROM,
        shareable=attached.shareable,
        serial=attached.serial or None,
        boot_order=attached.boot_order,
        alias=attached.alias or None,
        address=_address(attached),
    )


def _cache(attached: AttachedDisk) -> CacheMode | None:
    """A disk that other hosts write as well must not be cached by this one."""
    if attached.shareable and attached.cache not in UNCACHED:
        return CacheMode.NONE
    return None if attached.cache == CacheMode.DEFAULT else attached.cache


def _io(attached: AttachedDisk) -> str | None:
    """Native I/O needs a file opened past the page cache; libvirt refuses it with any other cache mode."""
    if attached.io == "native" and _cache(attached) not in UNCACHED:
        return "threads"
    return attached.io or None


def _address(attached: AttachedDisk) -> Address | None:
    """All SCSI disks sit on one controller. libvirt by itself puts seven on each, as on a narrow bus."""
    if attached.bus != Bus.SCSI:
        return None
    unit = index(attached.target) if attached.unit is None else attached.unit
    return Address(type="drive", controller=0, target=0, unit=unit)


def source_of(source: DiskSource) -> Source:
    """:raises InvalidRequest: the source lacks what its type needs"""
    if source.type == DiskType.NETWORK:
        if not source.protocol or not source.name:
            raise InvalidRequest(reason="a network disk needs a protocol and a name")
        return Source(
            protocol=source.protocol,
            name=source.name,
            hosts=tuple(_host(host) for host in source.hosts),
            initiator=source.initiator or None,
            auth=_auth(source),
            encryption=_encryption(source),
        )
    if source.path is None or not source.path.is_absolute():
        raise InvalidRequest(reason=f"a disk of type {source.type} needs an absolute path, not {source.path}")
    encryption = _encryption(source)
    if source.type == DiskType.FILE:
        return Source(file=source.path, encryption=encryption)
    return Source(dev=source.path, encryption=encryption)


def _encryption(source: DiskSource) -> SourceEncryption | None:
    """Its secret has the UUID of the key. What dm-crypt decrypts under QEMU is plain to it."""
    if source.encryption is None:
        return None
    if source.encryption.format != EncryptionFormat.LUKS:
        raise InvalidRequest(
            reason=f"QEMU does not decrypt {source.encryption.format}; a volume has to be opened first"
        )
    encryption = source.encryption
    return SourceEncryption(format=encryption.format, secret_type=_PASSPHRASE, secret_uuid=encryption.key_id)


def _host(host: NetworkHost) -> Host:
    if host.socket:
        return Host(transport="unix", socket=host.socket)
    return Host(name=host.name.strip("[]"), port=host.port)


def _auth(source: DiskSource) -> Auth | None:
    if not source.auth_user and not source.secret_uuid:
        return None
    if not source.auth_user or not source.secret_uuid:
        raise InvalidRequest(
            reason=f"{source.protocol} {source.name} has a user or a secret, but not both",
            hint="give libvirt the key as a secret, and both its UUID and the user",
        )
    return Auth(
        username=source.auth_user,
        secret_type=_SECRET.get(source.protocol, source.protocol),
        secret_uuid=source.secret_uuid,
    )


def backing_of(source: DiskSource | None) -> Backing:
    """The whole chain below a disk, with the empty element that tells libvirt not to look further."""
    if source is None:
        return Backing()
    return Backing(
        type=source.type,
        format=DRIVER[source.format],
        source=source_of(source),
        backing=backing_of(source.backing),
    )


def attached(element: Disk) -> AttachedDisk | None:
    """What a disk of a domain was made from; None for a drive without a medium.

    An ISO image is reported as raw: XML does not tell them apart.
    """
    if element.source is None or element.type is None:
        return None
    return AttachedDisk(
        source=_source(element.type, element.format, element.source, element.backing),
        target=element.target or "",
        bus=element.bus or Bus.VIRTIO,
        device=element.device,
        boot_order=element.boot_order,
        serial=element.serial or "",
        alias=element.alias or "",
        readonly=element.readonly,
        shareable=element.shareable,
        cache=element.cache or CacheMode.DEFAULT,
        io=element.io,
        discard=element.discard,
        detect_zeroes=element.detect_zeroes,
        iothread=element.iothread,
        iotune=element.iotune,
        logical_block_size=element.logical_block_size,
        physical_block_size=element.physical_block_size,
        unit=element.address.unit if element.address and element.bus == Bus.SCSI else None,
    )


def _source(type: DiskType, format: str | None, source: Source, backing: Backing | None) -> DiskSource:
    auth = source.auth or Auth()
    found = DiskSource(
        type=type,
        format=DiskFormat(format or "raw"),
        path=source.file or source.dev,
        protocol=source.protocol or "",
        name=source.name or "",
        hosts=tuple(NetworkHost(host.name or "", host.port, host.socket) for host in source.hosts),
        auth_user=auth.username or "",
        secret_uuid=auth.secret_uuid or "",
        initiator=source.initiator or "",
        encryption=_encryption_of(source.encryption),
    )
    if backing is None or backing.type is None or backing.source is None:
        return found
    return replace(found, backing=_source(backing.type, backing.format, backing.source, backing.backing))


def _encryption_of(element: SourceEncryption | None) -> Encryption | None:
    """How the disk was made is not in the XML."""
    if element is None or element.format is None or element.secret_uuid is None:
        return None
    return Encryption(element.format, element.secret_uuid)
