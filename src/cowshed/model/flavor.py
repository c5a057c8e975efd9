"""Flavor: how much of the host an instance gets."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cowshed.units import GiB, MiB


@dataclass(frozen=True, slots=True)
class Flavor:
    """Sizes in bytes. ``root`` 0 means: as large as the image. ``extra_specs`` are Nova's flavor
    keys, such as ``quota:disk_read_bytes_sec`` or ``hw:cpu_policy``."""

    vcpus: int = 1
    memory: int = 512 * MiB
    root: int = 0
    ephemeral: int = 0
    swap: int = 0
    name: str = "custom"
    flavorid: str = ""
    extra_specs: Mapping[str, str] = field(default_factory=dict)

    @property
    def memory_mb(self) -> int:
        return self.memory // MiB

    @property
    def root_gb(self) -> int:
        return -(-self.root // GiB)

    @property
    def ephemeral_gb(self) -> int:
        return -(-self.ephemeral // GiB)
