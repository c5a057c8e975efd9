"""The contract's functions on block device info (a BlockDeviceInfo, a dictionary, or None)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, is_dataclass
from typing import Any

_NO_SWAP = {"device_name": None, "swap_size": 0}


def _field(info: Any, name: str) -> Any:
    if info is None:
        return None
    return info.get(name) if isinstance(info, Mapping) else getattr(info, name, None)


def block_device_info_get_root(block_device_info: Any) -> str | None:
    """The root device's name, or None."""
    name: str | None = _field(block_device_info, "root_device_name")
    return name


def block_device_info_get_swap(block_device_info: Any) -> Any:
    """The swap disk (``device_name``, ``swap_size`` in MiB); an unusable one when there is none."""
    swap = _field(block_device_info, "swap")
    if not swap:
        return dict(_NO_SWAP)
    return asdict(swap) if is_dataclass(swap) and not isinstance(swap, type) else swap


def swap_is_usable(swap: Any) -> Any:
    """Truthy when ``swap`` (a Swap, a dictionary, or None) has a device name and a size."""
    return swap and _field(swap, "device_name") and (_field(swap, "swap_size") or 0) > 0


def block_device_info_get_ephemerals(block_device_info: Any) -> list[Any]:
    """The ephemeral disks (``size`` in GiB); never None."""
    return list(_field(block_device_info, "ephemerals") or [])


def block_device_info_get_mapping(block_device_info: Any) -> list[Any]:
    """The volumes; never None."""
    return list(_field(block_device_info, "block_device_mapping") or [])


def get_block_device_info(instance: Any, block_device_mapping: Sequence[Any]) -> dict[str, Any]:
    """Block device info from the block devices of an instance.

    Each device is a mapping with ``source_type`` and ``destination_type``: blank and local is swap
    (``guest_format`` swap) or an ephemeral disk, anything that ends in a volume is a volume.
    """
    local = [bdm for bdm in block_device_mapping if bdm.get("destination_type") == "local"]
    blank = [bdm for bdm in local if bdm.get("source_type") == "blank"]
    swaps = [bdm for bdm in blank if bdm.get("guest_format") == "swap"]
    return {
        "root_device_name": getattr(instance, "root_device_name", None) or None,
        "swap": swaps[0] if swaps else None,
        "ephemerals": [bdm for bdm in blank if bdm not in swaps],
        "block_device_mapping": [bdm for bdm in block_device_mapping if bdm.get("destination_type") == "volume"],
    }
