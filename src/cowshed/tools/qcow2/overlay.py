"""New, empty qcow2 images written in one go: overlays of a base, and blanks.

The layout is the one qemu-img makes: header with extensions, refcount table, one or more refcount
blocks, L1 table. Everything else is absent, so the file is a few clusters whatever the disk's size.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from cowshed.errors import InvalidRequest
from cowshed.model.disk import DiskFormat
from cowshed.tools import filesystem
from cowshed.tools.qcow2.header import EXT_BACKING_FORMAT, EXT_ENCRYPTION, EXT_END, LUKS, MAGIC, MAX_L1
from cowshed.units import MiB, format_size

_REFCOUNT_ORDER = 4  # 16-bit counts, QEMU's default
_HEADER_LENGTH = 112
MAX_CLUSTER = 2 * MiB


def create_overlay(
    fd: int,
    *,
    size: int,
    backing_path: Path,
    backing_format: DiskFormat,
    cluster_size: int = 65536,
    luks: bytes = b"",
) -> int:
    """Write an empty overlay of ``backing_path`` to the empty file ``fd``; returns the bytes written.

    :param size: bytes the guest will see
    :param luks: the head of a LUKS container: what is written to the overlay is encrypted with its key
    :raises InvalidRequest: the size, cluster size or path cannot be expressed
    """
    return _create(fd, size, cluster_size, os.fsencode(backing_path), QEMU_NAME[backing_format].encode(), luks)


def create_blank(fd: int, *, size: int, cluster_size: int = 65536, luks: bytes = b"") -> int:
    """Write an image of ``size`` zero bytes to the empty file ``fd``."""
    return _create(fd, size, cluster_size, b"", b"", luks)


QEMU_NAME = {DiskFormat.RAW: "raw", DiskFormat.QCOW2: "qcow2", DiskFormat.ISO: "raw"}


def _create(fd: int, size: int, cluster_size: int, backing: bytes, backing_format: bytes, luks: bytes) -> int:
    bits = cluster_size.bit_length() - 1
    if cluster_size != 1 << bits or not 512 <= cluster_size <= MAX_CLUSTER:
        raise InvalidRequest(reason=f"{cluster_size} is not a cluster size", hint="a power of two from 512 B to 2 MiB")
    l1_entries = max(1, -(-size // (cluster_size * (cluster_size // 8))))
    if l1_entries * 8 > MAX_L1:
        raise InvalidRequest(
            reason=f"a qcow2 disk of {format_size(size)} needs larger clusters than {format_size(cluster_size)}",
            hint="see [disks] cluster_size in the configuration" if cluster_size < MAX_CLUSTER else None,
        )
    l1_clusters = -(-l1_entries * 8 // cluster_size)
    luks_clusters = -(-len(luks) // cluster_size)
    table_clusters, blocks = _refcount_layout(cluster_size, 1 + l1_clusters + luks_clusters)
    l1_offset = (1 + table_clusters + blocks) * cluster_size
    luks_offset = l1_offset + l1_clusters * cluster_size
    used = 1 + table_clusters + blocks + l1_clusters + luks_clusters
    sealed = (luks_offset, len(luks)) if luks else None
    header = _header(size, bits, l1_entries, l1_offset, cluster_size, table_clusters, backing, backing_format, sealed)
    if len(header) > cluster_size:
        raise InvalidRequest(reason="the path of the base is too long for this cluster size")
    table = b"".join(struct.pack(">Q", (1 + table_clusters + block) * cluster_size) for block in range(blocks))
    counts = struct.pack(">H", 1) * used
    written = os.pwrite(fd, header, 0) + os.pwrite(fd, table, cluster_size)
    written += os.pwrite(fd, counts, (1 + table_clusters) * cluster_size)
    os.ftruncate(fd, luks_offset + luks_clusters * cluster_size)  # the L1 table is all zeros
    if luks:
        filesystem.write_all(fd, luks, luks_offset)
    return written + len(luks)


def _refcount_layout(cluster_size: int, others: int) -> tuple[int, int]:
    """(clusters of the refcount table, refcount blocks) that count ``others`` clusters and themselves."""
    per_block = cluster_size * 8 // (1 << _REFCOUNT_ORDER)
    table = blocks = 1
    while True:
        total = others + table + blocks
        needed_blocks = -(-total // per_block)
        needed_table = -(-needed_blocks * 8 // cluster_size)
        if needed_blocks <= blocks and needed_table <= table:
            return table, blocks
        blocks, table = max(blocks, needed_blocks), max(table, needed_table)


def _header(
    size: int,
    bits: int,
    l1_entries: int,
    l1_offset: int,
    table_offset: int,
    table_clusters: int,
    backing: bytes,
    backing_format: bytes,
    sealed: tuple[int, int] | None,
) -> bytes:
    extensions = b""
    if backing_format:
        padded = backing_format + b"\0" * (-len(backing_format) % 8)
        extensions = struct.pack(">II", EXT_BACKING_FORMAT, len(backing_format)) + padded
    if sealed:
        extensions += struct.pack(">IIQQ", EXT_ENCRYPTION, 16, *sealed)
    extensions += struct.pack(">II", EXT_END, 0)
    backing_offset = _HEADER_LENGTH + len(extensions) if backing else 0
    if len(backing) > 1023:
        raise InvalidRequest(reason="the path of the base is longer than the 1023 bytes qcow2 can hold")
    fixed = struct.pack(
        ">4sIQIIQIIQQIIQ",
        MAGIC, 3, backing_offset, len(backing), bits, size, LUKS if sealed else 0,
        l1_entries, l1_offset, table_offset, table_clusters, 0, 0,
    )  # fmt: skip
    version3 = struct.pack(">QQQII", 0, 0, 0, _REFCOUNT_ORDER, _HEADER_LENGTH) + b"\0" * 8
    return fixed + version3 + extensions + backing
