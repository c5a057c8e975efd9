"""qemu-img: always with explicit formats, absolute paths and limits."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from cowshed.model.disk import DiskFormat
from cowshed.tools import limits
from cowshed.tools.run import run

DRIVER: Final = {
    DiskFormat.RAW: "raw",
    DiskFormat.QCOW2: "qcow2",
    DiskFormat.ISO: "raw",
    DiskFormat.AKI: "raw",
    DiskFormat.ARI: "raw",
    DiskFormat.AMI: "raw",
    DiskFormat.PLOOP: "parallels",
}


def info(path: Path, format: DiskFormat) -> dict[str, Any]:
    """What qemu-img says of a file whose format is known. Shared: it may be in use."""
    found = run(
        ["qemu-img", "info", "--output=json", "--force-share", "-f", DRIVER[format], "--", path.absolute()],
        timeout=30,
        limits=limits.INFO,
    )
    facts: dict[str, Any] = json.loads(found.stdout)
    return facts


def resize(path: Path, format: DiskFormat, size: int) -> None:
    """Grow to ``size`` bytes."""
    run(
        ["qemu-img", "resize", "-q", "-f", DRIVER[format], "--", path.absolute(), str(size)],
        timeout=60,
        limits=limits.CONVERT,
    )


def create(path: Path, format: DiskFormat, size: int, **options: str) -> None:
    """A blank image; ``options`` are those of the format, such as ``preallocation``."""
    words = ",".join(f"{name}={value}" for name, value in options.items())
    run(
        [
            "qemu-img",
            "create",
            "-q",
            "-f",
            DRIVER[format],
            *(["-o", words] if words else []),
            "--",
            path.absolute(),
            str(size),
        ],
        timeout=600,
        limits=limits.CONVERT,
    )


def check(path: Path, format: DiskFormat) -> None:
    """:raises ToolFailed: the image has errors"""
    run(["qemu-img", "check", "-q", "-f", DRIVER[format], "--", path.absolute()], timeout=600, limits=limits.CONVERT)
