"""Volumes and the block device info the contract passes with an instance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Swap:
    """``swap_size`` in MiB (the contract's unit)."""

    device_name: str | None = None
    swap_size: int = 0
    disk_bus: str | None = None


@dataclass(frozen=True, slots=True)
class Ephemeral:
    """``size`` in GiB (the contract's unit); ``guest_format`` names the file system."""

    device_name: str | None = None
    size: int = 0
    guest_format: str | None = None
    disk_bus: str | None = None
    device_type: str | None = None


@dataclass(frozen=True, slots=True)
class BlockDeviceInfo:
    """The contract's ``block_device_info`` as a value; dictionaries are accepted beside it."""

    root_device_name: str | None = None
    swap: Swap | None = None
    ephemerals: tuple[Ephemeral, ...] = ()
    block_device_mapping: tuple[Mapping[str, Any], ...] = field(default=())
