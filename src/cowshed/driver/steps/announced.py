"""What the migrate data says of a guest that comes, read before anything is made for it."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cowshed.errors import InvalidRequest
from cowshed.migration import shape
from cowshed.migration.data import WHAT
from cowshed.units import MiB

if TYPE_CHECKING:
    from cowshed.model.disk import ManifestDisk
    from cowshed.model.volume import AttachedVolume

CONTENT: Final = 8 * MiB  # what a read-only disk may hold that travels with the migrate data


@dataclass(frozen=True, slots=True)
class Announced:
    """``copied``: disk to target, those that QEMU fills; ``content`` of those it does not; ``records``: file to text."""

    disks: list[ManifestDisk]
    copied: Mapping[str, str]
    content: Mapping[str, bytes]
    records: Mapping[str, str]
    volumes: list[AttachedVolume]


def read(found: Mapping[str, Any]) -> Announced:
    """:raises InvalidRequest: with the name of what is wrong"""
    from cowshed.disks import manifest

    records = found.get("records", {})
    check_records(records)
    return Announced(
        disks=shape.lines("disks", found.get("disks", ()), manifest.disk, WHAT),
        copied=found.get("copied", {}),
        content={name: _unpacked(name, text) for name, text in found.get("content", {}).items()},
        records=records,
        volumes=volumes(found),
    )


def volumes(found: Mapping[str, Any]) -> list[AttachedVolume]:
    """:raises InvalidRequest:"""
    from cowshed.volumes import record

    return shape.lines("volumes", found.get("volumes", ()), record.volume, WHAT)


def check_records(names: Iterable[str]) -> None:
    """:raises InvalidRequest:"""
    for name in names:
        if Path(name).name != name or not name.endswith(".json"):
            raise InvalidRequest(reason=f"{name!r} is not a record of an instance")


def _unpacked(name: str, text: str) -> bytes:
    """Of a small read-only disk; no more than such a one may have. :raises InvalidRequest:"""
    reader = zlib.decompressobj()
    try:
        content = reader.decompress(base64.b64decode(text, validate=True), CONTENT + 1)
    except (binascii.Error, ValueError, zlib.error) as error:
        raise InvalidRequest(reason=f"content of the migrate data has no disk {name}: {error}") from error
    if not reader.eof:
        raise InvalidRequest(reason=f"content of the migrate data: the disk {name} is cut off, or too large")
    return content
