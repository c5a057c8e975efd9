"""The config drive: a small read-only disk with what cloud-init reads. Ours, never the guest's."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path

from cowshed.disks.file import FileDisk
from cowshed.tools import filesystem, iso


def create(disk: FileDisk, files: Mapping[str, bytes], label: str) -> None:
    """Make (or replace) ``disk`` as an ISO 9660 image of ``files`` with volume ``label``.

    Readable by nobody else: user data carries passwords and keys.
    """
    data = iso.build(files, label)
    filesystem.make_directory(disk.directory)
    with filesystem.errors_of(disk.path, "create"):
        fd, name = tempfile.mkstemp(dir=disk.directory, prefix=f".{disk.name}.", suffix=filesystem.PART)
    path = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        disk.delete()
        disk.import_file(path)
    finally:
        filesystem.remove_file(path)
