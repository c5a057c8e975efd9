"""Volumes as callers ask for them: one call's arguments, or an entry of block device info."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from cowshed.contract import block_device
from cowshed.domain.naming import Names
from cowshed.errors import InvalidRequest, UnsupportedOperation
from cowshed.model.disk import Bus, Device, Encryption, EncryptionFormat
from cowshed.model.volume import ROOT_ORDER, AttachedVolume, VolumeState
from cowshed.volumes import info as infos
from cowshed.volumes import shape

_BUSES: Final = {"vd": Bus.VIRTIO, "hd": Bus.IDE, "fd": Bus.FDC}
_SD: Final = (Bus.SCSI, Bus.SATA, Bus.USB)


@dataclass(frozen=True, slots=True)
class Asked:
    """``name`` without /dev/, "" = the next free one; ``boot_index`` counts from 0."""

    info: Mapping[str, Any]
    name: str = ""
    bus: str = ""
    device: str = ""
    boot_index: int | None = None
    encryption: Mapping[str, Any] | None = None
    tag: str = ""


def entries(block_devices: Any) -> list[Asked] | None:
    """Every volume of block device info; None where it says nothing of volumes."""
    mapping = (
        block_devices.get("block_device_mapping")
        if isinstance(block_devices, Mapping)
        else getattr(block_devices, "block_device_mapping", None)
    )
    if mapping is None:
        return None
    found = [_entry(one) for one in mapping]
    root = _name(block_device.block_device_info_get_root(block_devices))
    if root and not any(one.boot_index == 0 for one in found):
        found = [replace(one, boot_index=0) if one.name == root else one for one in found]
    return found


def _entry(entry: Mapping[str, Any]) -> Asked:
    info = entry.get("connection_info")
    if not isinstance(info, Mapping):
        raise InvalidRequest(reason=f"the volume at {entry.get('mount_device')} has no connection info")
    if entry.get("volume_id") and not info.get("serial"):
        info = {**info, "serial": entry["volume_id"]}
    index = entry.get("boot_index")
    return Asked(
        info,
        _name(entry.get("mount_device")),
        entry.get("disk_bus") or "",
        entry.get("device_type") or "",
        index if isinstance(index, int) and index >= 0 else None,
        entry.get("encryption"),
        entry.get("tag") or "",
    )


def _name(device: Any) -> str:
    return str(device or "").removeprefix("/dev/")


def root_volume(block_devices: Any) -> Asked | None:
    """The volume that the instance boots from, where it has no root disk of its own."""
    return next((one for one in entries(block_devices) or () if one.boot_index == 0), None)


def placed(asked: Asked, names: Names, default: Bus) -> AttachedVolume:
    """The volume with a name and a bus in the guest.

    :param default: the instance's bus for disks
    :raises InvalidRequest: a bus has no room left, or what is asked for contradicts itself
    :raises NameTaken: :raises UnsupportedOperation: this kind of encryption
    """
    device = _word(Device, asked.device or Device.DISK, "device type")
    bus = _word(Bus, asked.bus, "bus") if asked.bus else _bus(asked.name, default, device)
    shape.check(asked.info, bus, device)
    identity = infos.volume_id(asked.info)
    return AttachedVolume(
        id=identity,
        connection_info=asked.info,
        target=names.take(bus, asked.name),
        bus=bus,
        device=device,
        serial=identity,
        alias=f"ua-{identity}",
        boot_order=None if asked.boot_index is None else asked.boot_index + ROOT_ORDER,
        encryption=encryption(asked),
        tag=asked.tag,
        state=VolumeState.CONNECTING,
    )


def _word(kind: type[Any], word: str, what: str) -> Any:
    try:
        return kind(word)
    except ValueError:
        known = ", ".join(str(one) for one in kind)
        raise InvalidRequest(reason=f"{word!r} is not a {what}", hint=f"known: {known}") from None


def _bus(name: str, default: Bus, device: Device) -> Bus:
    """As the name says, where nothing else does."""
    if name.startswith("sd"):
        return default if default in _SD else Bus.SCSI
    if device in (Device.CDROM, Device.LUN) and default == Bus.VIRTIO:
        return Bus.SCSI
    return _BUSES.get(name[:2], default)


def encryption(asked: Asked) -> Encryption | None:
    """:raises UnsupportedOperation: only LUKS is opened inside QEMU

    A volume that its service calls encrypted is never shown to the guest as the bytes on the storage.
    """
    given = asked.encryption or {}
    encrypted = infos.data(asked.info).get("encrypted")
    if not given and not encrypted:
        return None
    key = given.get("encryption_key_id")
    provider = str(given.get("provider") or "")
    if not given or not key:
        raise InvalidRequest(reason=f"volume {infos.volume_id(asked.info)} is encrypted, and its key is not named")
    if provider.rpartition(".")[2] not in ("luks", "LuksEncryptor"):
        raise UnsupportedOperation(
            subject="QEMU", operation=f"open a volume encrypted by {provider or 'nobody'}", reason="it opens LUKS"
        )
    return Encryption(EncryptionFormat.LUKS, str(key))


def taken(disks: Iterable[Any]) -> list[tuple[str, Bus]]:
    """Names in use, from the disks of a domain."""
    return [(one.target, one.bus or Bus.VIRTIO) for one in disks if one.target]
