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

        :param connection_info: ``driver_volume_type`` and ``data``, as the volume service gives them
        :param mountpoint: the device name, such as ``/dev/vdb``
        :param disk_bus: ``virtio``, ``scsi``, ...; None: as the image says
        :param encryption: how the volume is encrypted, None: not
        :raises InstanceNotFound: :raises UnsupportedOperation: nobody here knows this type of volume
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
        """Take a volume from the guest, then disconnect it; also when guest or device is gone.

        :raises DeadlineExceeded: the guest does not let go of it; it stays connected
        """
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
        """Copy a volume to another while the guest uses it, then use that.

        :param resize_to: GiB; 0: as large as it is
        :raises DiskNotFound: the old one is not attached
        :raises HypervisorError: the copy failed; the guest goes on with the old one, the new one is disconnected
        """
        refuse(self, "swap_volume")

    @unfulfilled
    def get_volume_connector(self, instance: Instance) -> dict[str, Any]:
        """What a volume service must know of this host: at least ``ip``, ``initiator``, ``host``."""
        refuse(self, "get_volume_connector")

    @unfulfilled
    def get_all_volume_usage(
        self, context: Any, compute_host_bdms: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """Counters of every volume: volume, instance, rd_req, rd_bytes, wr_req, wr_bytes.

        :param compute_host_bdms: of every instance here: ``instance`` and ``instance_bdms`` (device_name, volume_id)
        """
        refuse(self, "get_all_volume_usage")

    @unfulfilled
    def volume_snapshot_create(
        self, context: Any, instance: Instance, volume_id: str, create_info: Mapping[str, Any]
    ) -> None:
        """Snapshot of a file-based volume: the guest goes on writing to ``create_info["new_file"]``.

        :param create_info: ``snapshot_id``, ``type`` (qcow2) and ``new_file``, which the volume service has made
        :raises InvalidState: it is not running
        """
        refuse(self, "volume_snapshot_create")

    @unfulfilled
    def volume_snapshot_delete(
        self, context: Any, instance: Instance, volume_id: str, snapshot_id: str, delete_info: Mapping[str, Any]
    ) -> None:
        """Merge a snapshot of a file-based volume away; the guest may be running.

        :param delete_info: ``type`` (qcow2), ``file_to_merge`` and ``merge_target_file``; a None target: into the active one
        """
        refuse(self, "volume_snapshot_delete")
