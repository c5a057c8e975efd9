"""The config drive: a small read-only disk with what cloud-init reads. Ours, never the guest's."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from cowshed.disks.encryption import key_of
from cowshed.disks.file import FileDisk
from cowshed.model.disk import DiskFormat, DiskSource, DiskType
from cowshed.tools import iso, luks


def create(disk: FileDisk, files: Mapping[str, bytes], label: str, *, encrypt: bool = False) -> None:
    """Make (or replace) ``disk`` as an ISO 9660 image of ``files`` with volume ``label``.

    Readable by nobody else: user data carries passwords and keys.
    """
    data = iso.build(files, label)
    disk.delete()
    disk.create_filled(len(data), lambda path: path.write_bytes(data), encrypt=encrypt)


def read(disk: FileDisk) -> tuple[Mapping[str, bytes], str]:
    """The files and the label of one that :func:`create` has made; what is encrypted is decrypted in memory alone.

    :raises DataCorrupt: it is no such thing :raises NotFound: its key is gone
    """
    return iso.read(_content(disk), disk.path)


def _content(disk: FileDisk) -> bytes:
    source = disk.source()
    if source.encryption is None:
        return disk.path.read_bytes()
    fd = os.memfd_create("config-drive", os.MFD_CLOEXEC)
    try:
        size = disk.info().virtual_size
        os.ftruncate(fd, size)
        plain = DiskSource(DiskType.FILE, DiskFormat.RAW, Path(f"/proc/{os.getpid()}/fd/{fd}"))
        luks.copy(source, plain, lambda name: key_of(disk.keys, name), zero=True, size=size)
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)
