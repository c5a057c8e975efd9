"""qemu-img: always with explicit formats, absolute paths and limits."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cowshed.errors import Busy, DataCorrupt, NoSpace, ToolFailed
from cowshed.model.disk import DiskFormat
from cowshed.tools import filesystem
from cowshed.tools.limits import CONVERT, INFO, Limits
from cowshed.tools.run import Result, run

DRIVER: Final = {
    DiskFormat.RAW: "raw",
    DiskFormat.QCOW2: "qcow2",
    DiskFormat.ISO: "raw",
    DiskFormat.AKI: "raw",
    DiskFormat.ARI: "raw",
    DiskFormat.AMI: "raw",
    DiskFormat.PLOOP: "parallels",
}


def command(path: Path, *words: str, timeout: float, limits: Limits = CONVERT, fds: Sequence[int] = ()) -> Result:
    """qemu-img with these words, which name ``path`` absolutely: no name is taken for an option or a protocol.

    :param fds: descriptors it inherits (keys)
    :raises Busy: another process, such as a guest, holds the image
    :raises NoSpace: :raises DataCorrupt: its key is not the right one
    :raises ToolFailed: :raises ToolMissing:
    """
    try:
        return run(["qemu-img", *words], timeout=timeout, limits=limits, pass_fds=fds)
    except ToolFailed as error:
        if "Failed to get" in error.output and "lock" in error.output:
            raise Busy(what=path, holder="a guest or a tool", hint="stop the instance first") from error
        if "Invalid password" in error.output:
            reason = "its key does not open it"
            raise DataCorrupt(path=path, reason=reason, hint="restore the disk's key from a backup") from error
        if "No space left" in error.output:
            free = filesystem.free_space(path.parent)
            raise NoSpace(place=path.parent, needed="more", free=free, hint="free some space") from error
        raise


def patience(size: int) -> float:
    """Seconds that writing ``size`` bytes may take: a slow disk, with others at work on it."""
    return 600 + size / 5e6


def info(path: Path, format: DiskFormat) -> dict[str, Any]:
    """What qemu-img says of a file whose format is known. Shared: it may be in use."""
    found = command(
        path,
        *("info", "--output=json", "--force-share", "-f", DRIVER[format], "--", str(path.absolute())),
        timeout=30,
        limits=INFO,
    )
    facts: dict[str, Any] = json.loads(found.stdout)
    return facts


def resize(path: Path, format: DiskFormat, size: int, *, preallocation: str = "off") -> None:
    """Grow to ``size`` bytes. :raises Busy: a guest uses it"""
    words = ("-q", "-f", DRIVER[format], f"--preallocation={preallocation}")
    command(path, "resize", *words, "--", str(path.absolute()), str(size), timeout=patience(size))


def create(path: Path, format: DiskFormat, size: int, **options: str) -> None:
    """A blank image; ``options`` are those of the format, such as ``preallocation``."""
    words = ",".join(f"{name}={value}" for name, value in options.items())
    chosen = ("-o", words) if words else ()
    arguments = ("-q", "-f", DRIVER[format], *chosen, "--", str(path.absolute()), str(size))
    command(path, "create", *arguments, timeout=patience(size))


def check(path: Path, format: DiskFormat) -> None:
    """:raises ToolFailed: the image has errors"""
    command(path, "check", "-q", "-f", DRIVER[format], "--", str(path.absolute()), timeout=600)


def repair(path: Path, format: DiskFormat) -> None:
    """Put right what a killed QEMU left, such as the mark that it is open. :raises Busy: it is open"""
    command(path, "check", "-q", "-r", "all", "-f", DRIVER[format], "--", str(path.absolute()), timeout=600)


def name_base(path: Path, format: DiskFormat, base: Path, base_format: DiskFormat) -> None:
    """Let an overlay name another base; that it holds the same bytes is the caller's word."""
    words = ("-q", "-u", "-f", DRIVER[format], "-F", DRIVER[base_format], "-b", str(base.absolute()))
    command(path, "rebase", *words, "--", str(path.absolute()), timeout=60)


TAKE, APPLY, REMOVE = "-c", "-a", "-d"


def snapshot(path: Path, action: str, name: str) -> None:
    """Take, apply or remove an internal snapshot of a qcow2 file.

    The tool has no ``-f`` here; image options say the format, and a comma in a file's name is doubled.

    :raises Busy: a guest uses it :raises NoSpace:
    """
    file = str(path.absolute()).replace(",", ",,")
    options = f"driver={DRIVER[DiskFormat.QCOW2]},file.driver=file,file.filename={file}"
    command(path, "snapshot", "-q", action, name, "--image-opts", options, timeout=600)
