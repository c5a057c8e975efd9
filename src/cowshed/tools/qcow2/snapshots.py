"""The internal snapshots of a qcow2 image: its table of them, every number bounded."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

from cowshed.tools.qcow2.header import QcowError, read_header
from cowshed.units import MiB

_ENTRY: Final = struct.Struct(">QIHHIIQII")  # 40 bytes, then extra data, id, name, up to a multiple of 8
_MOST: Final = 65536  # QEMU's limits (QCOW_MAX_SNAPSHOTS, QCOW_MAX_SNAPSHOTS_SIZE)
_LARGEST: Final = 64 * MiB
_LONGEST_EXTRA: Final = 1024


@dataclass(frozen=True, slots=True)
class Snapshot:
    """``id`` and ``name`` as qemu-img shows them."""

    id: str
    name: str


def read_snapshots(fd: int) -> list[Snapshot]:
    """As they stand in the table. :raises QcowError:"""
    header = read_header(fd)
    if header.snapshots > _MOST:
        raise QcowError(f"it has {header.snapshots} snapshots")
    found, position = [], header.snapshots_offset
    for _ in range(header.snapshots):
        snapshot, length = _read(fd, position)
        found.append(snapshot)
        position += length
        if position - header.snapshots_offset > _LARGEST:
            raise QcowError("its snapshot table is too large")
    return found


def _read(fd: int, position: int) -> tuple[Snapshot, int]:
    """(snapshot, bytes its entry takes)"""
    head = os.pread(fd, _ENTRY.size, position)
    if len(head) < _ENTRY.size:
        raise QcowError("its snapshot table is cut short")
    _, _, id_length, name_length, _, _, _, _, extra = _ENTRY.unpack(head)
    if extra > _LONGEST_EXTRA:
        raise QcowError("an entry of its snapshot table is too long")
    names = os.pread(fd, id_length + name_length, position + _ENTRY.size + extra)
    if len(names) < id_length + name_length:
        raise QcowError("its snapshot table is cut short")
    length = _ENTRY.size + extra + id_length + name_length
    snapshot = Snapshot(names[:id_length].decode(errors="replace"), names[id_length:].decode(errors="replace"))
    return snapshot, -(-length // 8) * 8
