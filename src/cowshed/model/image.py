"""Image: what an instance is created from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from cowshed.model.disk import DiskFormat


class ImageStatus(StrEnum):
    QUEUED = "queued"
    SAVING = "saving"
    UPLOADING = "uploading"
    IMPORTING = "importing"
    ACTIVE = "active"
    DEACTIVATED = "deactivated"
    KILLED = "killed"
    PENDING_DELETE = "pending_delete"
    DELETED = "deleted"


@dataclass(frozen=True, slots=True)
class Image:
    """The record an image service keeps, with Glance's names.

    ``size`` is the stored file's bytes, ``virtual_size`` what a guest sees. ``os_hash_algo`` is
    ``sha256`` or ``sha512`` and ``os_hash_value`` its hex digest over the stored file.
    ``min_disk`` and ``min_ram`` are bytes. ``properties`` are Glance's (``hw_disk_bus``,
    ``hw_firmware_type``, ``kernel_id``, ...). It is also the contract's ``image_meta``.
    """

    id: str
    name: str = ""
    status: ImageStatus = ImageStatus.ACTIVE
    disk_format: DiskFormat = DiskFormat.RAW
    container_format: str = "bare"
    size: int = 0
    virtual_size: int = 0
    os_hash_algo: str = ""
    os_hash_value: str = ""
    min_disk: int = 0
    min_ram: int = 0
    properties: Mapping[str, str] = field(default_factory=dict)
    source: str = ""
    created_at: float = 0.0
    updated_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Location:
    """Where else an image's bytes lie: ``file:///...`` or ``rbd://fsid/pool/image/snapshot``."""

    url: str
    metadata: Mapping[str, str] = field(default_factory=dict)
