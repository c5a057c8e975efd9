"""What of a connection info shows in the domain: a pure function of volume and source."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any, Final

from cowshed import log
from cowshed.contract.connecting import ConnectionInfo
from cowshed.domain import qos
from cowshed.errors import InvalidRequest
from cowshed.model.disk import AttachedDisk, Bus, CacheMode, Device, DiskSource, IoTune
from cowshed.model.volume import AttachedVolume
from cowshed.volumes import info as infos

_log = log.logger(__name__)

_ACCESS: Final = ("rw", "ro")
_LIMITS: Final = tuple(field.name for field in fields(IoTune) if field.name != "group_name")
_SMALLEST, _LARGEST = 512, 2 << 20  # QEMU's bounds of a block size (hw/block/block.c)


def disk(volume: AttachedVolume, source: DiskSource) -> AttachedDisk:
    """The disk that the guest shall see.

    :raises InvalidRequest: the connection info asks for what cannot be
    """
    info = volume.connection_info
    data = infos.data(info)
    logical, physical = block_sizes(info, volume.bus)
    shared = shareable(info)
    return AttachedDisk(
        source=replace(source, encryption=volume.encryption) if volume.encryption else source,
        target=volume.target,
        bus=volume.bus,
        device=volume.device,
        boot_order=volume.boot_order,
        serial=volume.serial,
        alias=volume.alias,
        readonly=read_only(info) or volume.device == Device.CDROM,
        shareable=shared,
        cache=_cache(data.get("cache"), shared),
        io=data.get("io") or None,
        discard="unmap" if data.get("discard") else None,
        iotune=limits(info),
        logical_block_size=logical,
        physical_block_size=physical,
    )


def check(info: ConnectionInfo, bus: Bus, device: Device) -> None:
    """:raises InvalidRequest: what ``disk`` would refuse"""
    read_only(info)
    block_sizes(info, bus)
    limits(info)
    _cache(infos.data(info).get("cache"), False)
    if device == Device.LUN and bus != Bus.SCSI:
        raise InvalidRequest(reason=f"a LUN is passed through on bus scsi, not on {bus}")


def read_only(info: ConnectionInfo) -> bool:
    mode = infos.data(info).get("access_mode") or "rw"
    if mode not in _ACCESS:
        raise InvalidRequest(reason=f"access_mode {mode!r} is neither rw nor ro")
    return bool(mode == "ro")


def shareable(info: ConnectionInfo) -> bool:
    """May several guests write to it at once? They must know how."""
    return bool(info.get("multiattach") or infos.data(info).get("multiattach"))


def block_sizes(info: ConnectionInfo, bus: Bus) -> tuple[int | None, int | None]:
    """Logical and physical, in bytes."""
    data = infos.data(info)
    logical, physical = (_block_size(data.get(name), name) for name in ("logical_block_size", "physical_block_size"))
    if logical and physical and physical < logical:
        raise InvalidRequest(reason=f"physical_block_size {physical} is smaller than logical_block_size {logical}")
    if logical and logical != _SMALLEST and bus in (Bus.SATA, Bus.IDE):
        raise InvalidRequest(reason=f"a disk on bus {bus} has logical blocks of 512 bytes, not {logical}")
    return logical, physical


def _block_size(value: Any, name: str) -> int | None:
    if value in (None, ""):
        return None
    size = int(value) if str(value).isdigit() else 0
    if not _SMALLEST <= size <= _LARGEST or size & (size - 1):
        raise InvalidRequest(reason=f"{name} {value!r} is not a power of two from 512 to {_LARGEST}")
    return size


def limits(info: ConnectionInfo) -> IoTune | None:
    """What the volume's QoS says; words that are for the storage and not for us are passed over."""
    words = infos.data(info).get("qos_specs") or {}
    for name in words:
        if name not in _LIMITS:
            _log.info("QoS word %s is not one of ours", name)
    return qos.iotune({f"{qos.PREFIX}{name}": str(value) for name, value in words.items() if name in _LIMITS})


def _cache(mode: Any, shared: bool) -> CacheMode:
    """Past the host's page cache: what the guest has flushed is on the storage, and no other host reads stale bytes."""
    try:
        return CacheMode(mode) if mode and not shared else CacheMode.NONE
    except ValueError:
        raise InvalidRequest(reason=f"cache mode {mode!r} is not known", hint=", ".join(CacheMode)) from None
