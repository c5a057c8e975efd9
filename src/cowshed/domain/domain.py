"""The domain: everything libvirt needs to run one instance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar
from xml.etree import ElementTree as ET

from cowshed.domain import namespace
from cowshed.domain.channel import Channel
from cowshed.domain.clock import Clock
from cowshed.domain.commandline import Commandline
from cowshed.domain.controller import Controller
from cowshed.domain.cpu import Cpu
from cowshed.domain.cputune import Cputune
from cowshed.domain.disk import Disk
from cowshed.domain.element import Element, child, children, size, value
from cowshed.domain.features import Features
from cowshed.domain.filesystem import Filesystem
from cowshed.domain.graphics import Graphics
from cowshed.domain.input import Input
from cowshed.domain.interface import Interface
from cowshed.domain.memballoon import Memballoon
from cowshed.domain.memory import MemoryBacking
from cowshed.domain.metadata import Metadata
from cowshed.domain.os import Os
from cowshed.domain.rng import Rng
from cowshed.domain.serial import Serial
from cowshed.domain.tpm import Tpm
from cowshed.domain.video import Video
from cowshed.domain.watchdog import Watchdog

for _prefix, _address in namespace.PREFIXES.items():
    ET.register_namespace(_prefix, _address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Domain(Element):
    """``memory`` in bytes. ``Domain.parse`` reads what libvirt returns, live or defined."""

    TAG: ClassVar[str] = "domain"

    type: str | None = value("@type")
    name: str | None = value("name")
    uuid: str | None = value("uuid")
    title: str | None = value("title")
    metadata: Metadata | None = child("metadata")
    memory: int | None = size("memory")
    current_memory: int | None = size("currentMemory")
    memory_backing: MemoryBacking | None = child()
    vcpus: int | None = value("vcpu")
    iothreads: int | None = value("iothreads")
    cputune: Cputune | None = child()
    os: Os | None = child()
    features: Features | None = child()
    cpu: Cpu | None = child()
    clock: Clock | None = child()
    on_poweroff: str | None = value("on_poweroff")
    on_reboot: str | None = value("on_reboot")
    on_crash: str | None = value("on_crash")
    emulator: Path | None = value("devices/emulator")
    disks: tuple[Disk, ...] = children("devices")
    filesystems: tuple[Filesystem, ...] = children("devices")
    controllers: tuple[Controller, ...] = children("devices")
    interfaces: tuple[Interface, ...] = children("devices")
    serials: tuple[Serial, ...] = children("devices")
    channels: tuple[Channel, ...] = children("devices")
    inputs: tuple[Input, ...] = children("devices")
    graphics: tuple[Graphics, ...] = children("devices")
    videos: tuple[Video, ...] = children("devices")
    rngs: tuple[Rng, ...] = children("devices")
    memballoon: Memballoon | None = child("devices")
    watchdogs: tuple[Watchdog, ...] = children("devices")
    tpms: tuple[Tpm, ...] = children("devices")
    commandline: Commandline | None = child()
