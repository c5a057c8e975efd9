"""Blank disks with something on them: swap, and ephemeral disks with a file system and a label."""

from __future__ import annotations

import os
from pathlib import Path

from cowshed.contract.storage import Disk, Importing
from cowshed.disks.file import FileDisk
from cowshed.disks.recorded import whole_sectors
from cowshed.errors import NoSpace, ToolFailed, UnsupportedOperation
from cowshed.tools import filesystem, mkfs
from cowshed.units import MiB

SCRATCH = ".blank-"  # a file on its way into a storage; what a killed process left of it is in nobody's way


def create(disk: Disk, size: int, *, filesystem_type: str, label: str = "", place: Path, encrypt: bool = False) -> None:
    """Make ``disk`` of ``size`` bytes with a file system or ``swap`` on it.

    :param place: an existing folder for what is made before the disk can take it over
    :raises InvalidRequest: the file system, the label or the size is impossible; nothing was made
    :raises UnsupportedOperation: the disk can take over no file, or cannot be encrypted
    :raises NameTaken: :raises NoSpace: as the disk's own ``create``
    """
    mkfs.check(filesystem_type, label, size)
    try:
        if isinstance(disk, FileDisk):
            disk.create_filled(size, lambda path: mkfs.make(path, filesystem_type, label=label), encrypt=encrypt)
        else:
            _import(disk, size, filesystem_type, label, place, encrypt=encrypt)
    except ToolFailed as error:
        free = filesystem.free_space(place)
        if free < MiB:
            raise NoSpace(place=place, needed="more", free=free, hint="free some space") from error
        raise


def _import(disk: Disk, size: int, filesystem_type: str, label: str, place: Path, *, encrypt: bool) -> None:
    """Through a sparse file, which holds little more than the tables of an empty file system."""
    if not isinstance(disk, Importing):
        raise UnsupportedOperation(subject=f"disk {disk.name}", operation="take over a file", reason="it has no way to")
    path = place / f"{SCRATCH}{disk.name}"
    filesystem.remove_file(path)
    try:
        with filesystem.errors_of(path, "write"), path.open("xb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.truncate(whole_sectors(size))
        mkfs.make(path, filesystem_type, label=label)
        disk.import_file(path, encrypt=encrypt)
    finally:
        filesystem.remove_file(path)
