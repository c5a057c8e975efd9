"""Volumes: storage that exists without the instance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cowshed.contract.promise import refuse, unfulfilled
from cowshed.model.instance import Instance


class Volumes:
    """Volumes: storage that exists without the instance."""

    @unfulfilled
    def attach_volume(
        self,
        context: Any,
        connection_info: Mapping[str, Any],
        instance: Instance,
        mountpoint: str,
        disk_bus: str | None = None,
        device_type: str | None = None,
        encryption: Mapping[str, Any] | None = None,
    ) -> None:
        """Connect a volume and show it to the guest, running or not; on failure it is disconnected again.

        :param mountpoint: the device name, such as ``/dev/vdb``
        """
        refuse(self, "attach_volume")

    @unfulfilled
    def detach_volume(
        self,
        connection_info: Mapping[str, Any],
        instance: Instance,
        mountpoint: str,
        encryption: Mapping[str, Any] | None = None,
    ) -> None:
        """Take a volume from the guest, then disconnect it; also when guest or device is gone."""
        refuse(self, "detach_volume")

    @unfulfilled
    def swap_volume(
        self,
        old_connection_info: Mapping[str, Any],
        new_connection_info: Mapping[str, Any],
        instance: Instance,
        mountpoint: str,
        resize_to: int,
    ) -> None:
        """Copy a volume to another while the guest uses it, then use that. ``resize_to`` in GiB, 0: as it is."""
        refuse(self, "swap_volume")

    @unfulfilled
    def get_volume_connector(self, instance: Instance) -> dict[str, Any]:
        """What a volume service must know of this host: at least ip, initiator, host."""
        refuse(self, "get_volume_connector")

    @unfulfilled
    def get_all_volume_usage(
        self, context: Any, compute_host_bdms: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Counters of every volume: volume, instance, rd_req, rd_bytes, wr_req, wr_bytes."""
        refuse(self, "get_all_volume_usage")

    @unfulfilled
    def volume_snapshot_create(
        self, context: Any, instance: Instance, volume_id: str, create_info: Mapping[str, Any]
    ) -> None:
        """Snapshot of a file-based volume: the guest goes on writing to ``create_info["new_file"]``."""
        refuse(self, "volume_snapshot_create")

    @unfulfilled
    def volume_snapshot_delete(
        self, context: Any, instance: Instance, volume_id: str, snapshot_id: str, delete_info: Mapping[str, Any]
    ) -> None:
        """Merge a snapshot of a file-based volume away while the guest runs."""
        refuse(self, "volume_snapshot_delete")
