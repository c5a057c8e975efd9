"""File systems and swap on a file or device, made as the calling user."""

from __future__ import annotations

from pathlib import Path

from cowshed.errors import InvalidRequest
from cowshed.tools.run import run
from cowshed.units import KiB, MiB, format_size

_LABELS = {"swap": 15, "ext2": 16, "ext3": 16, "ext4": 16, "xfs": 12, "vfat": 11}
SMALLEST = {
    "swap": 64 * KiB,
    "ext2": 256 * KiB,
    "ext3": 4 * MiB,
    "ext4": 4 * MiB,
    "xfs": 300 * MiB,
    "vfat": 256 * KiB,
}
_COMMANDS = {
    "swap": ["mkswap"],
    "ext2": ["mkfs.ext2", "-q", "-F"],
    "ext3": ["mkfs.ext3", "-q", "-F"],
    "ext4": ["mkfs.ext4", "-q", "-F", "-E", "lazy_itable_init=1"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
    "vfat": ["mkfs.vfat"],
}
KNOWN = tuple(_COMMANDS)


def check(filesystem: str, label: str, size: int) -> None:
    """:raises InvalidRequest: the file system is unknown, or it cannot have this label or size"""
    if filesystem not in _COMMANDS:
        raise InvalidRequest(reason=f"file system {filesystem!r} is unknown", hint=f"known: {', '.join(KNOWN)}")
    if len(label.encode()) > _LABELS[filesystem]:
        raise InvalidRequest(reason=f"label {label!r} is longer than the {_LABELS[filesystem]} bytes of {filesystem}")
    if label.startswith("-") or not label.isprintable():
        raise InvalidRequest(reason=f"{label!r} cannot be a label")
    if size < SMALLEST[filesystem]:
        smallest = format_size(SMALLEST[filesystem])
        raise InvalidRequest(reason=f"{format_size(size)} is too small for {filesystem}", hint=f"at least {smallest}")


def make(path: Path, filesystem: str, *, label: str = "") -> None:
    """:raises ToolMissing: :raises ToolFailed: for example because the file is too small"""
    option = "-n" if filesystem == "vfat" else "-L"
    run([*_COMMANDS[filesystem], *([option, label] if label else []), path.absolute()])
