"""Blank disks with something on them: swap, and ephemeral disks with a file system and a label."""

from __future__ import annotations

from cowshed.disks.file import FileDisk
from cowshed.errors import NoSpace, ToolFailed
from cowshed.tools import filesystem, mkfs
from cowshed.units import MiB


def create(disk: FileDisk, size: int, *, filesystem_type: str, label: str = "") -> None:
    """Make ``disk`` of ``size`` bytes with a file system or ``swap`` on it.

    :raises InvalidRequest: the file system, the label or the size is impossible; nothing was made
    :raises NameTaken: :raises NoSpace: as the disk's own ``create``
    """
    mkfs.check(filesystem_type, label, size)
    try:
        disk.create_filled(size, lambda path: mkfs.make(path, filesystem_type, label=label))
    except ToolFailed as error:
        free = filesystem.free_space(disk.directory)
        if free < MiB:
            raise NoSpace(place=disk.directory, needed="more", free=free, hint="free some space") from error
        raise
