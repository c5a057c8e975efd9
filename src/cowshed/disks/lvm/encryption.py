"""Volumes that dm-crypt encrypts: made, and taken out."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cowshed.contract.callbacks import Progress
from cowshed.disks.encryption import Sealed, check_extract
from cowshed.model.disk import DiskFormat, DiskSource, DiskType, Encryption, EncryptionFormat
from cowshed.tools import cryptsetup, filesystem, luks, luks_header, qcow2

_ITERATIONS: Final = luks_header.LEAST_ITERATIONS  # keys are random: there is nothing to stretch


@contextmanager
def formatted(device: Path, volume: str, sealed: Sealed) -> Iterator[Path]:
    """The volume in clear, to be filled; closed when the block ends."""
    encryption = sealed.encryption
    if encryption.format == EncryptionFormat.LUKS2:
        cryptsetup.format_volume(device, encryption.parameters, sealed.key)
    try:
        yield cryptsetup.open_volume(device, volume, encryption.format, encryption.parameters, sealed.key)
    finally:
        cryptsetup.close(volume)


def extract(
    device: Path,
    size: int,
    target: Path,
    format: DiskFormat,
    sealed: Sealed,
    *,
    compress: bool,
    progress: Progress,
) -> None:
    """``device`` (in clear) to a file that QEMU encrypts (LUKS) with the disk's own key."""
    check_extract(format, compress=compress, plaintext=False)
    pinned = Encryption(EncryptionFormat.LUKS, sealed.encryption.key_id, luks_header.parameters(_ITERATIONS))
    with filesystem.publish(target, unnamed=True) as new:
        if format == DiskFormat.QCOW2:
            qcow2.create_blank(new.fd, size=size, luks=luks_header.build(sealed.key, pinned.parameters))
        else:
            luks.create_raw(new.fd, size, sealed.key, pinned.parameters)
        source = DiskSource(DiskType.BLOCK, DiskFormat.RAW, device)
        copied = DiskSource(DiskType.FILE, format, new.path, encryption=pinned)
        zero = format == DiskFormat.QCOW2
        luks.copy(source, copied, sealed.find, compress=compress, zero=zero, progress=progress, size=size)


def sealed_size(path: Path) -> int:
    """Bytes that a guest sees of a raw file that QEMU has encrypted. :raises DataCorrupt: it has no LUKS header"""
    with filesystem.errors_of(path, "read"), path.open("rb") as file:
        return os.fstat(file.fileno()).st_size - luks_header.payload_offset(file.fileno(), path)


def decrypt(path: Path, key: bytes, device: Path, size: int, *, progress: Progress) -> None:
    """Such a file into a volume in clear (which dm-crypt encrypts)."""
    sealed = Encryption(EncryptionFormat.LUKS, "received")
    source = DiskSource(DiskType.FILE, DiskFormat.RAW, path, encryption=sealed)
    luks.copy(source, DiskSource(DiskType.BLOCK, DiskFormat.RAW, device), lambda _: key, progress=progress, size=size)
