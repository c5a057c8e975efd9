"""What ``libvirt_info`` and ``libvirt_fs_info`` return: classic attribute names, cowshed's XML."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar
from xml.etree import ElementTree as ET

from cowshed.domain.disk import disk
from cowshed.errors import InvalidRequest
from cowshed.model.disk import AttachedDisk, Bus, CacheMode, Device, DiskSource, IoTune

Word = TypeVar("Word", bound=StrEnum)

QOS_KEYS = tuple(f"disk_{what}_{unit}_sec" for unit in ("bytes", "iops") for what in ("read", "write", "total"))


@dataclass
class DiskConfig:
    """``<disk>``. The fields may be changed before :meth:`to_xml`; ``disk_*`` are bytes or operations a second."""

    source: DiskSource
    target_dev: str
    target_bus: str
    source_device: str = "disk"
    driver_name: str = "qemu"
    driver_cache: str | None = None
    driver_io: str | None = None
    driver_discard: str | None = None
    boot_order: int | None = None
    device_unit: int | None = None
    serial: str | None = None
    disk_read_bytes_sec: int | None = None
    disk_write_bytes_sec: int | None = None
    disk_total_bytes_sec: int | None = None
    disk_read_iops_sec: int | None = None
    disk_write_iops_sec: int | None = None
    disk_total_iops_sec: int | None = None

    @property
    def source_type(self) -> str:
        return str(self.source.type)

    @property
    def source_path(self) -> str | None:
        return str(self.source.path) if self.source.path else None

    @property
    def source_protocol(self) -> str | None:
        """Of a disk that is in a cluster: ``rbd``."""
        return self.source.protocol or None

    @property
    def source_name(self) -> str | None:
        return self.source.name or None

    @property
    def source_hosts(self) -> list[str]:
        return [host.name.strip("[]") for host in self.source.hosts]

    @property
    def source_ports(self) -> list[str]:
        return [str(host.port) for host in self.source.hosts if host.port]

    @property
    def auth_username(self) -> str | None:
        return self.source.auth_user or None

    @property
    def auth_secret_type(self) -> str | None:
        return "ceph" if self.source.secret_uuid else None

    @property
    def auth_secret_uuid(self) -> str | None:
        return self.source.secret_uuid or None

    @property
    def driver_format(self) -> str:
        return str(self.source.format)

    def iotune(self) -> IoTune | None:
        values = {key.removeprefix("disk_"): getattr(self, key) for key in QOS_KEYS}
        if all(value is None for value in values.values()):
            return None
        return IoTune(**values)

    def to_xml(self) -> str:
        """:raises InvalidRequest: a value is not one of libvirt's"""
        return disk(
            AttachedDisk(
                source=self.source,
                target=self.target_dev,
                bus=_known(Bus, self.target_bus, "bus"),
                device=_known(Device, self.source_device, "device"),
                boot_order=self.boot_order,
                serial=self.serial or "",
                cache=_known(CacheMode, self.driver_cache or "default", "cache mode"),
                io=self.driver_io,
                discard=self.driver_discard,
                iotune=self.iotune(),
                unit=self.device_unit,
            )
        ).to_xml()


def _known(words: type[Word], value: str, what: str) -> Word:
    """:raises InvalidRequest: it is none of them"""
    if value not in tuple(words):
        raise InvalidRequest(reason=f"{value!r} is no {what} of a disk", hint=f"known: {', '.join(words)}")
    return words(value)


@dataclass
class FilesystemConfig:
    """``<filesystem>`` for containers."""

    source_type: str
    target_dir: str
    source_file: str | None = None
    source_dev: str | None = None
    driver_format: str | None = None
    driver_type: str | None = None

    def to_xml(self) -> str:
        node = ET.Element("filesystem", type=self.source_type)
        if self.source_type == "file":
            ET.SubElement(node, "driver", type=self.driver_type or "", format=self.driver_format or "")
            ET.SubElement(node, "source", file=self.source_file or "")
        else:
            ET.SubElement(node, "source", dev=self.source_dev or "")
        ET.SubElement(node, "target", dir=self.target_dir)
        return ET.tostring(node, encoding="unicode")
