"""The fake's disks: their names and facts; list, grow, move, snapshots, export."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cowshed.contract.types import BlockDevices
from cowshed.errors import DiskTooSmall, InvalidRequest, InvalidState, SnapshotNotFound
from cowshed.model.disk import DiskFormat, DiskSnapshot, LocalDisk
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.testing.disks import MemoryDisk
from cowshed.testing.driver.devices import FakeDevices
from cowshed.testing.driver.lifecycle import free_name
from cowshed.tools import mkfs


class FakeDisks(FakeDevices):
    # --- the contract's -----------------------------------------------------------------------

    @property
    def need_legacy_block_device_info(self) -> bool:
        return False

    def get_instance_disk_info(self, instance: Instance, block_device_info: BlockDevices = None) -> str:
        self._find(instance)
        infos = [(disk, disk.info()) for disk in self._disks(instance)]
        return json.dumps(
            [
                {
                    "type": str(info.format),
                    "path": disk.name,
                    "virt_disk_size": info.virtual_size,
                    "backing_file": "",
                    "disk_size": info.allocated,
                    "over_committed_disk_size": info.virtual_size - info.allocated,
                }
                for disk, info in infos
            ]
        )

    def default_root_device_name(self, instance: Instance, image_meta: Image, root_bdm: Any) -> str:
        return "/dev/vda"

    def default_device_names_for_instance(
        self, instance: Instance, root_device_name: str, *block_device_lists: Sequence[Any]
    ) -> None:
        devices = [bdm for group in block_device_lists for bdm in group]
        taken = {root_device_name, *(bdm["device_name"] for bdm in devices if bdm.get("device_name"))}
        for bdm in devices:
            if not bdm.get("device_name"):
                bdm["device_name"] = free_name(taken)
                taken.add(bdm["device_name"])

    def get_device_name_for_instance(self, instance: Instance, bdms: Sequence[Any], block_device_obj: Any) -> str:
        return free_name({"/dev/vda", *(bdm["device_name"] for bdm in bdms if bdm.get("device_name"))})

    def is_supported_fs_format(self, fs_type: str) -> bool:
        return fs_type in mkfs.KNOWN and fs_type != "swap"

    # --- the manager's ------------------------------------------------------------------------

    def list_disks(self, instance: Instance) -> Sequence[LocalDisk]:
        return [_described(disk) for disk in self._disks(instance)]

    def show_disk(self, instance: Instance, disk: str = "") -> LocalDisk:
        return _described(self._disk(instance, disk))

    def resize_disk(self, instance: Instance, size: int, disk: str = "") -> int:
        found = self._disk(instance, disk)
        if size < found.info().virtual_size:
            raise DiskTooSmall(disk=found.name, size=size, needed=found.info().virtual_size)
        found.resize(size)
        return found.info().virtual_size

    def move_disk(self, instance: Instance, backend: str, disk: str = "") -> bool:
        old = self._disk(instance, disk)
        target = self._backend(backend)
        self._offline(instance, "moved to another backend")
        if target is old.backend:
            return False
        with tempfile.TemporaryDirectory(prefix="cowshed-") as folder:
            old.extract(Path(folder) / "content", DiskFormat.RAW)
            target.disk(instance.uuid, old.name).import_file(Path(folder) / "content")
        old.delete()
        return True

    def export_disk(
        self,
        instance: Instance,
        target: Path,
        disk: str = "",
        *,
        format: DiskFormat = DiskFormat.QCOW2,
        compress: bool = False,
        plaintext: bool = False,
    ) -> None:
        found = self._disk(instance, disk)
        self._offline(instance, "exported")
        found.extract(target, format, compress=compress, plaintext=plaintext)

    def export_key(self, instance: Instance, target: Path, disk: str = "") -> None:
        found = self._disk(instance, disk)
        raise InvalidRequest(reason=f"{found.name} of instance {instance.name} is not encrypted; it has no key")

    # --- snapshots ----------------------------------------------------------------------------

    def take_disk_snapshot(self, instance: Instance, name: str, disk: str = "") -> Sequence[str]:
        self._offline(instance, "given a snapshot")
        found = self._chosen(instance, disk)
        for one in found:
            one.take(name)
        return [one.name for one in found]

    def list_disk_snapshots(self, instance: Instance, disk: str = "") -> Sequence[tuple[str, DiskSnapshot]]:
        return [(one.name, point) for one in self._chosen(instance, disk) for point in one.snapshots()]

    def roll_back_disks(self, instance: Instance, name: str, disk: str = "") -> Sequence[str]:
        self._offline(instance, "rolled back")
        found = self._having(instance, name, disk)
        for one in found:
            one.roll_back(name)
        return [one.name for one in found]

    def remove_disk_snapshot(self, instance: Instance, name: str, disk: str = "") -> Sequence[str]:
        self._offline(instance, "rid of a snapshot")
        found = self._having(instance, name, disk)
        for one in found:
            one.remove(name)
        return [one.name for one in found]

    # --- which --------------------------------------------------------------------------------

    def _chosen(self, instance: Instance, word: str) -> list[MemoryDisk]:
        return [self._disk(instance, word)] if word else self._disks(instance)

    def _having(self, instance: Instance, name: str, word: str) -> list[MemoryDisk]:
        found = self._chosen(instance, word)
        having = [one for one in found if name in [point.name for point in one.snapshots()]]
        if not having:
            raise SnapshotNotFound(name=f"{name} of instance {instance.name}")
        return having

    def _offline(self, instance: Instance, action: str) -> None:
        guest = self._find(instance)
        if guest.running or guest.saved:
            state = "suspended" if guest.saved else guest.state.name.lower()
            raise InvalidState(name=guest.name, state=state, action=action)


def _described(disk: MemoryDisk) -> LocalDisk:
    info = disk.info()
    return LocalDisk(
        name=disk.name,
        backend=disk.backend.traits.name,
        format=info.format,
        location=disk.source().name,
        virtual_size=info.virtual_size,
        allocated=info.allocated,
        snapshots=tuple(disk.snapshots()),
    )
