"""Host: this machine, what it can do and what it has left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class VirtType(StrEnum):
    KVM = "kvm"
    QEMU = "qemu"


@dataclass(frozen=True, slots=True)
class Firmware:
    """One UEFI firmware: the code image and the template of its variables.

    ``enrolled``: the template has keys, without which secure boot refuses nothing.
    """

    loader: Path
    nvram_template: Path
    secure_boot: bool = False
    enrolled: bool = False


@dataclass(frozen=True, slots=True)
class HostCapabilities:
    """What domains may use here; read once per libvirt and QEMU version.

    ``machines`` maps the short names (``q35``, ``pc``) to what they stand for. ``libvirt`` and
    ``qemu`` are (major, minor, micro). ``note`` says why the virt type is what it is, for people:
    for example that KVM is there but runs no guests.
    """

    arch: str = "x86_64"
    virt_type: VirtType = VirtType.QEMU
    emulator: Path = Path("/usr/bin/qemu-system-x86_64")
    libvirt: tuple[int, int, int] = (0, 0, 0)
    qemu: tuple[int, int, int] = (0, 0, 0)
    machines: Mapping[str, str] = field(default_factory=dict)
    firmwares: tuple[Firmware, ...] = ()
    cpu_modes: tuple[str, ...] = ()
    disk_buses: tuple[str, ...] = ()
    graphics: tuple[str, ...] = ("vnc",)
    video_models: tuple[str, ...] = ()
    rng_models: tuple[str, ...] = ()
    tpm_versions: tuple[str, ...] = ()
    passt: bool = False
    session: bool = False
    max_vcpus: int = 0
    note: str = ""


@dataclass(frozen=True, slots=True)
class CpuStats:
    """Nanoseconds since boot, and MHz (the contract's names)."""

    kernel: int
    idle: int
    user: int
    iowait: int
    frequency: int


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence of the doctor. ``level`` is ok, warning or error; ``remedy`` says how to mend it."""

    level: str
    subject: str
    sentence: str
    remedy: str = ""
