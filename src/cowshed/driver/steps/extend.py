"""Volumes that grow under a guest."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Final

from cowshed.driver.steps import volumes
from cowshed.errors import DiskNotFound, InvalidRequest, UnsupportedOperation
from cowshed.model.disk import DiskSource, DiskType
from cowshed.model.instance import Instance
from cowshed.model.volume import AttachedVolume
from cowshed.units import format_size
from cowshed.volumes import find, shape

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_LUKS: Final = b"LUKS\xba\xbe"
_PAYLOAD: Final = 104  # where LUKS1's header says at which sector the content begins


def extend(rooms: Rooms, instance: Instance, volume: AttachedVolume, size: int) -> None:
    """:param size: bytes of the whole volume :raises DiskNotFound: :raises InvalidRequest: it would shrink"""
    guest = rooms.hypervisor.guest(instance.uuid)
    if shape.read_only(volume.connection_info):
        raise UnsupportedOperation(
            subject=f"volume {volume.id} of {instance.name}",
            operation="be grown",
            reason="it is attached read-only",
            hint="detach it, and attach it again when it has grown",
        )
    present = volumes.finder(volume)(guest.xml())
    source = volumes.source_at(present) if present else None
    if present is None or source is None:
        raise DiskNotFound(name=f"volume {volume.id} of {instance.name}")
    connector = find(rooms.connectors, volume.connection_info)
    there = connector.size(volume.connection_info)
    file = source.type == DiskType.FILE
    if file and size < there:
        raise InvalidRequest(reason=f"{format_size(size)} is less than the {format_size(there)} there are")
    if not file and there < size:
        raise InvalidRequest(
            reason=f"the storage has {format_size(there)} of volume {volume.id}, not {format_size(size)}",
            hint="grow it there first",
        )
    if guest.ended():
        if file:
            _grow_file(source, size)
        return
    if source.protocol == "nbd":
        raise UnsupportedOperation(
            subject="QEMU's NBD client",
            operation="see that a volume has grown",
            reason="NBD does not tell",
            hint="stop and start the instance, or detach and attach the volume",
        )
    overhead = _luks_header(source) if volume.encryption else 0
    guest.block_jobs.resize(present.target or volume.target, size - overhead)


def _grow_file(source: DiskSource, size: int) -> None:
    from cowshed.tools import qemu_img

    assert source.path is not None
    qemu_img.resize(source.path, source.format, size)


def _luks_header(source: DiskSource) -> int:
    """Bytes before the content. :raises UnsupportedOperation: it is not on this host, where it could be read"""
    if source.path is None:
        raise UnsupportedOperation(
            subject="cowshed",
            operation="grow an encrypted network volume while it is in use",
            reason="the size of its header is not known here",
            hint="stop the instance first",
        )
    fd = os.open(source.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        head = os.pread(fd, 512, 0)
    finally:
        os.close(fd)
    if not head.startswith(_LUKS):
        raise InvalidRequest(reason=f"{source.path} has no LUKS header")
    sectors: int = struct.unpack_from(">I", head, _PAYLOAD)[0]
    return sectors * 512
