"""Ceilings for host tools (security: no tool may eat the host)."""

from __future__ import annotations

import resource
from dataclasses import dataclass

from cowshed.units import GiB


@dataclass(frozen=True, slots=True)
class Limits:
    """``cpu`` in seconds, ``memory`` (address space) and ``file_size`` in bytes; None: no ceiling.

    ``memory`` below 512 MiB makes qemu-img fail at random: each thread reserves a malloc arena
    (measured with QEMU 7.2; MALLOC_ARENA_MAX=1 and 2 GiB are safe).
    """

    cpu: int | None = None
    memory: int | None = None
    file_size: int | None = None
    files: int | None = None

    def resources(self) -> list[tuple[int, int]]:
        pairs = [
            (resource.RLIMIT_CPU, self.cpu),
            (resource.RLIMIT_AS, self.memory),
            (resource.RLIMIT_FSIZE, self.file_size),
            (resource.RLIMIT_NOFILE, self.files),
            (resource.RLIMIT_CORE, 0),
        ]
        return [(kind, value) for kind, value in pairs if value is not None]


INFO = Limits(cpu=30, memory=2 * GiB, files=64)
CONVERT = Limits(memory=4 * GiB, files=64)
NONE = Limits()

# util-linux's prlimit calls them so.
NAMES = {
    resource.RLIMIT_CPU: "cpu",
    resource.RLIMIT_AS: "as",
    resource.RLIMIT_FSIZE: "fsize",
    resource.RLIMIT_NOFILE: "nofile",
    resource.RLIMIT_CORE: "core",
}
