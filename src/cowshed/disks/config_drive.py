"""The config drive: a small read-only disk with what cloud-init reads. Ours, never the guest's."""

from __future__ import annotations

from collections.abc import Mapping

from cowshed.disks.file import FileDisk
from cowshed.tools import iso


def create(disk: FileDisk, files: Mapping[str, bytes], label: str, *, encrypt: bool = False) -> None:
    """Make (or replace) ``disk`` as an ISO 9660 image of ``files`` with volume ``label``.

    Readable by nobody else: user data carries passwords and keys.
    """
    data = iso.build(files, label)
    disk.delete()
    disk.create_filled(len(data), lambda path: path.write_bytes(data), encrypt=encrypt)
