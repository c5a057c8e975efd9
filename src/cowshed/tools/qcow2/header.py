"""The qcow2 header: parsed with every number bounded before it is used."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import Final

from cowshed.units import MiB

MAGIC: Final = b"QFI\xfb"
_V2: Final = struct.Struct(">4sIQIIQIIQQIIQ")  # 72 bytes
_V3: Final = struct.Struct(">QQQII")  # the next 32

DIRTY, CORRUPT, DATA_FILE, COMPRESSION, EXTENDED_L2 = (1 << bit for bit in range(5))
ZLIB, ZSTD = 0, 1

EXT_END, EXT_BACKING_FORMAT, EXT_FEATURES = 0, 0xE2792ACA, 0x6803F857
EXT_DATA_FILE, EXT_BITMAPS, EXT_ENCRYPTION = 0x44415441, 0x23852875, 0x0537BE77

LUKS: Final = 2  # crypt_method

MAX_L1: Final = 32 * MiB  # bytes; QEMU's own limit (QCOW_MAX_L1_SIZE)
_MAX_REFCOUNT_TABLE: Final = 64 * MiB  # bytes; QEMU's limit is 8 MiB or one cluster
MAX_EXTENSIONS: Final = 64
MAX_SNAPSHOTS: Final = 0  # an uploaded image is one state, not a history


class QcowError(ValueError):
    """The bytes are not a qcow2 image that we accept; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Header:
    """Sizes in bytes, offsets from the file's start. ``l1_size`` counts entries."""

    version: int
    size: int
    cluster_bits: int
    l1_size: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    snapshots_offset: int
    backing: bytes | None
    encryption: int
    incompatible: int
    compatible: int
    compression: int
    header_length: int
    extensions: tuple[tuple[int, bytes], ...]

    @property
    def cluster_size(self) -> int:
        return 1 << self.cluster_bits

    @property
    def l2_entries(self) -> int:
        return self.cluster_size // 8

    @property
    def backing_format(self) -> str | None:
        for kind, data in self.extensions:
            if kind == EXT_BACKING_FORMAT:
                return data.decode(errors="replace")
        return None

    @property
    def has_data_file(self) -> bool:
        return bool(self.incompatible & DATA_FILE) or any(kind == EXT_DATA_FILE for kind, _ in self.extensions)


def read_header(fd: int) -> Header:
    """The header of an open file; structure only, see :func:`refuse_unsafe` for policy.

    :raises QcowError: it is malformed
    """
    return parse_header(os.pread(fd, 64 * 1024, 0))


def parse_header(data: bytes) -> Header:
    """The header in ``data`` (the first 64 KiB of the file are enough)."""
    if len(data) < _V2.size or data[:4] != MAGIC:
        raise QcowError("it has no qcow2 header")
    fields = _V2.unpack_from(data)
    _, version, backing_offset, backing_length, cluster_bits, size, encryption = fields[:7]
    l1_size, l1_offset, refcount_offset, refcount_clusters, snapshots, snapshots_offset = fields[7:]
    if version not in (2, 3):
        raise QcowError(f"qcow2 version {version} is unknown")
    if not 9 <= cluster_bits <= 21:
        raise QcowError(f"cluster size 2^{cluster_bits} is out of range")
    if snapshots_offset % (1 << cluster_bits) or snapshots_offset >> 63:
        raise QcowError("its snapshot table is out of range")
    incompatible = compatible = compression = 0
    length = _V2.size
    if version == 3:
        if len(data) < _V2.size + _V3.size:
            raise QcowError("its header is cut short")
        incompatible, compatible, _, refcount_order, length = _V3.unpack_from(data, _V2.size)
        if refcount_order > 6:
            raise QcowError("its reference counts are too wide")
        if length < 104 or length > 4096 or length % 8:
            raise QcowError(f"header length {length} is out of range")
        if length > 1 << cluster_bits or length > len(data):
            raise QcowError("its header is longer than its first cluster")
        if length > 104:
            compression = data[104]
    return Header(
        version=version,
        size=size,
        cluster_bits=cluster_bits,
        l1_size=l1_size,
        l1_offset=l1_offset,
        refcount_offset=refcount_offset,
        refcount_clusters=refcount_clusters,
        snapshots=snapshots,
        snapshots_offset=snapshots_offset,
        backing=_backing(data, backing_offset, backing_length, 1 << cluster_bits),
        encryption=encryption,
        incompatible=incompatible,
        compatible=compatible,
        compression=compression,
        header_length=length,
        extensions=_extensions(data, length, backing_offset or min(len(data), 1 << cluster_bits)),
    )


def _backing(data: bytes, offset: int, length: int, cluster_size: int) -> bytes | None:
    if offset == 0:
        return None
    if length > 1023 or offset + length > min(cluster_size, len(data)):
        raise QcowError("its backing file name lies outside the header")
    return data[offset : offset + length]


def _extensions(data: bytes, start: int, end: int) -> tuple[tuple[int, bytes], ...]:
    found = []
    position = start
    while position + 8 <= min(end, len(data)):
        kind, length = struct.unpack_from(">II", data, position)
        if position + 8 + length > min(end, len(data)):
            raise QcowError("a header extension lies outside the header")
        if kind == EXT_END:
            break
        found.append((kind, data[position + 8 : position + 8 + length]))
        if len(found) > MAX_EXTENSIONS:
            raise QcowError(f"it has more than {MAX_EXTENSIONS} header extensions")
        position += 8 + (length + 7) // 8 * 8
    return tuple(found)


def refuse_unsafe(header: Header, *, sealed: bool = False) -> None:
    """The policy for images from outside: self-contained, plain, known.

    :param sealed: it is one of cowshed's encrypted disks
    :raises QcowError: with the reason
    """
    if header.backing is not None:
        raise QcowError("it has a backing file; an image must be self-contained")
    if header.has_data_file:
        raise QcowError("its data lies in another file; an image must be self-contained")
    if sealed and header.encryption != LUKS:
        raise QcowError("it is not encrypted as it is said to be")
    if not sealed and (header.encryption or any(kind == EXT_ENCRYPTION for kind, _ in header.extensions)):
        raise QcowError("it is encrypted")
    if header.incompatible & CORRUPT:
        raise QcowError("it is marked as corrupt; repair it with qemu-img check -r")
    if header.incompatible & DIRTY:
        raise QcowError("it was not closed cleanly; repair it with qemu-img check -r")
    if header.incompatible & EXTENDED_L2:
        raise QcowError("it uses extended L2 entries, which are not supported")
    if unknown := header.incompatible & ~(DIRTY | CORRUPT | DATA_FILE | COMPRESSION | EXTENDED_L2):
        raise QcowError(f"it uses unknown incompatible features ({unknown:#x})")
    if header.compression not in (ZLIB, ZSTD):
        raise QcowError(f"compression type {header.compression} is unknown")
    if bool(header.compression) != bool(header.incompatible & COMPRESSION):
        raise QcowError("its compression type and its feature bits contradict each other")
    if header.snapshots > MAX_SNAPSHOTS:
        raise QcowError(f"it has {header.snapshots} internal snapshots")


def refuse_inconsistent(header: Header, file_size: int) -> None:
    """Every table lies inside the file, aligned, and large enough for the size it claims.

    :raises QcowError:
    """
    cluster = header.cluster_size
    needed = -(-header.size // (cluster * header.l2_entries))
    if header.l1_size * 8 > MAX_L1:
        raise QcowError("its L1 table is too large")
    if header.l1_size < needed:
        raise QcowError("its L1 table is too small for the size it claims")
    if header.l1_size and (header.l1_offset % cluster or header.l1_offset + header.l1_size * 8 > file_size):
        raise QcowError("its L1 table lies outside the file or is not aligned")
    if header.refcount_clusters == 0:
        raise QcowError("it has no refcount table")
    if header.refcount_offset % cluster or header.refcount_clusters * cluster > _MAX_REFCOUNT_TABLE:
        raise QcowError("its refcount table is out of range")
    if header.refcount_offset + header.refcount_clusters * cluster > file_size + cluster:
        raise QcowError("its refcount table lies outside the file")
