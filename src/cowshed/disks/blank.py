"""Blank disks with something on them: swap, and ephemeral disks with a file system and a label."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from cowshed.disks.file import FileDisk
from cowshed.tools import filesystem, mkfs


def create(disk: FileDisk, size: int, *, filesystem_type: str, label: str = "") -> None:
    """Make ``disk`` of ``size`` bytes with a file system or ``swap`` on it.

    :raises InvalidRequest: the file system or the label is impossible; nothing was made
    """
    mkfs.check(filesystem_type, label)
    filesystem.make_directory(disk.directory)
    with filesystem.errors_of(disk.path, "create"):
        fd, name = tempfile.mkstemp(dir=disk.directory, prefix=f".{disk.name}.", suffix=filesystem.PART)
    path = Path(name)
    try:
        os.ftruncate(fd, size)
        os.close(fd)
        mkfs.make(path, filesystem_type, label=label)
        disk.import_file(path)
    finally:
        filesystem.remove_file(path)
