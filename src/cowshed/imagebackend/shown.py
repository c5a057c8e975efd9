"""How a disk is shown in the domain, in the classic API's words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

from cowshed.errors import InvalidRequest
from cowshed.imagebackend.config import QOS_KEYS, DiskConfig, FilesystemConfig
from cowshed.model.disk import DiskSource


class Shown(ABC):
    """What :class:`~cowshed.imagebackend.image.Image` knows of XML."""

    path: str
    driver_format: str
    is_block_dev: bool
    disk_info_mapping: Mapping[str, Any] | None
    discard_mode: str | None
    driver_io: str | None

    @abstractmethod
    def _source(self) -> DiskSource: ...

    def libvirt_info(
        self,
        cache_mode: str | None,
        extra_specs: Mapping[str, Any] | None,
        boot_order: int | str | None = None,
        disk_unit: int | None = None,
    ) -> DiskConfig:
        """``<disk>`` of the disk, as ``disk_info_mapping`` places it.

        :raises AttributeError: the object was made without ``disk_info_mapping``
        """
        if self.disk_info_mapping is None:
            raise AttributeError("this image has no disk_info_mapping (bus, dev, type)")
        mapping = self.disk_info_mapping
        config = DiskConfig(
            source=self._source(),
            target_dev=mapping["dev"],
            target_bus=mapping["bus"],
            source_device=mapping["type"],
            driver_cache=cache_mode,
            driver_io=self.driver_io if cache_mode in ("none", "directsync") else self._threads(),
            driver_discard=self.discard_mode,
            boot_order=int(boot_order) if boot_order else None,
        )
        self.disk_scsi(config, disk_unit)
        self.disk_qos(config, extra_specs or {})
        return config

    def _threads(self) -> str | None:
        """Native I/O needs a cache mode that bypasses the page cache."""
        return "threads" if self.driver_io == "native" else self.driver_io

    def disk_scsi(self, config: DiskConfig, disk_unit: int | None) -> None:
        """On SCSI, unit N of controller 0; without a unit libvirt chooses."""
        if config.target_bus == "scsi" and disk_unit is not None:
            config.device_unit = disk_unit

    def disk_qos(self, config: DiskConfig, extra_specs: Mapping[str, Any]) -> None:
        """Flavor keys ``quota:disk_{read,write,total}_{bytes,iops}_sec`` to the disk; others are ignored.

        :raises InvalidRequest: a value is not a number from 0
        """
        for key in QOS_KEYS:
            if (value := extra_specs.get(f"quota:{key}")) is not None:
                setattr(config, key, _number(key, value))

    def libvirt_fs_info(self, target: str, driver_type: str | None = None) -> FilesystemConfig:
        """``<filesystem>`` of a container whose root is this disk."""
        if self.is_block_dev:
            return FilesystemConfig("block", target, source_dev=self.path)
        kind = driver_type or ("loop" if self.driver_format == "raw" else "nbd")
        return FilesystemConfig(
            "file", target, source_file=self.path, driver_format=self.driver_format, driver_type=kind
        )


def _number(key: str, value: Any) -> int:
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = -1
    if number < 0:
        raise InvalidRequest(reason=f"quota:{key} must be a number from 0, not {value!r}")
    return number
