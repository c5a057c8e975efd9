"""Glance's image record -> our :class:`Image`, and back.

Glance keeps min_disk in GiB and min_ram in MiB. What does not come out even is rounded up for Glance's other
readers, and the exact number is kept in a property of ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from cowshed.errors import InvalidRequest, UnsupportedOperation
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image, ImageStatus
from cowshed.units import GiB, MiB

# https://docs.openstack.org/api-ref/image/v2/#show-image: everything else at the top level is a property.
BASE: Final = frozenset(
    [
        "checksum",
        "container_format",
        "created_at",
        "direct_url",
        "disk_format",
        "file",
        "hidden",
        "id",
        "locations",
        "min_disk",
        "min_ram",
        "name",
        "os_hash_algo",
        "os_hash_value",
        "os_hidden",
        "owner",
        "protected",
        "schema",
        "self",
        "size",
        "status",
        "stores",
        "tags",
        "updated_at",
        "virtual_size",
        "visibility",
    ]
)
INTERNAL: Final = "os_glance_"  # Glance's notes about its own work
SOURCE: Final = "cowshed_source"
EXACT: Final = {"min_disk": ("cowshed_min_disk", GiB), "min_ram": ("cowshed_min_ram", MiB)}
_OURS: Final = frozenset([SOURCE, *(name for name, _ in EXACT.values())])
_PLAIN: Final = (DiskFormat.RAW, DiskFormat.ISO)
_TRIPLES: Final = (DiskFormat.AKI, DiskFormat.ARI, DiskFormat.AMI)  # Glance wants the same word as container format


def to_image(record: Mapping[str, Any]) -> Image:
    """:raises UnsupportedOperation: it is of a format that is not known here
    :raises ValueError: it is no image record
    """
    try:
        return Image(
            id=_text(record["id"]),
            name=_text(record.get("name")),
            status=ImageStatus(record["status"]),
            disk_format=_format(record),
            container_format=_text(record.get("container_format")) or "bare",
            size=_number(record.get("size")),
            virtual_size=_virtual_size(record),
            os_hash_algo=_text(record.get("os_hash_algo")),
            os_hash_value=_text(record.get("os_hash_value")),
            min_disk=_exact(record, "min_disk"),
            min_ram=_exact(record, "min_ram"),
            properties=properties(record),
            source=_text(record.get(SOURCE)),
            created_at=_moment(record.get("created_at")),
            updated_at=_moment(record.get("updated_at")),
        )
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"it is no image record ({error!r})") from error


def _virtual_size(record: Mapping[str, Any]) -> int:
    """Glance leaves it out of a raw image whose bytes it has not seen (a registered location); they are what a guest sees."""
    plain = record.get("disk_format") in _PLAIN and record.get("container_format") == "bare"
    return _number(record.get("virtual_size")) or (_number(record.get("size")) if plain else 0)


def properties(record: Mapping[str, Any]) -> dict[str, str]:
    """Those that are the user's."""
    return {
        key: str(value)
        for key, value in record.items()
        if key not in BASE and key not in _OURS and not key.startswith(INTERNAL) and value is not None
    }


def of_image(image: Image) -> dict[str, Any]:
    """What is sent to make a record. :raises InvalidRequest: a property has a name that Glance needs itself"""
    record: dict[str, Any] = {
        "name": image.name,
        "disk_format": str(image.disk_format),
        "container_format": container_format(image),
        **minimum("min_disk", image.min_disk),
        **minimum("min_ram", image.min_ram),
        **checked(image.properties),
    }
    if image.id:
        record["id"] = image.id
    if image.source:
        record[SOURCE] = image.source
    return {key: value for key, value in record.items() if value is not None}


def container_format(image: Image) -> str:
    return str(image.disk_format) if image.disk_format in _TRIPLES else image.container_format


def checked(given: Mapping[str, Any]) -> dict[str, str]:
    """:raises InvalidRequest: a property has a name that Glance, or cowshed, needs itself"""
    if taken := [key for key in given if key in BASE or key in _OURS or key.startswith(INTERNAL)]:
        raise InvalidRequest(reason=f"{', '.join(taken)} cannot be a property of an image in Glance")
    return {str(key): str(value) for key, value in given.items()}


def minimum(name: str, size: int) -> dict[str, Any]:
    """``min_disk`` or ``min_ram`` of ``size`` bytes in Glance's units, and the exact number (None: not needed)."""
    exact, unit = EXACT[name]
    return {name: -(-size // unit), exact: str(size) if size % unit else None}


def _exact(record: Mapping[str, Any], name: str) -> int:
    """Bytes. Our exact number counts only while it agrees: somebody may have changed Glance's since."""
    key, unit = EXACT[name]
    units = _number(record.get(name))
    noted = str(record.get(key) or "")
    if noted.isdecimal() and len(noted) < 20 and -(-int(noted) // unit) == units:
        return int(noted)
    return units * unit


def _format(record: Mapping[str, Any]) -> DiskFormat:
    word = record.get("disk_format")
    if word is None:  # a record that has no bytes yet
        return DiskFormat.RAW
    try:
        return DiskFormat(word)
    except ValueError:
        raise UnsupportedOperation(
            subject="cowshed",
            operation=f"use image {record.get('name') or record['id']}",
            reason=f"its format is {word}",
            hint=f"known: {', '.join(DiskFormat)}",
        ) from None


def _text(value: Any) -> str:
    if value is not None and not isinstance(value, str):
        raise TypeError(value)
    return value or ""


def _number(value: Any) -> int:
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 0):
        raise TypeError(value)
    return value or 0


def _moment(value: Any) -> float:
    return datetime.fromisoformat(value).timestamp() if value else 0.0
