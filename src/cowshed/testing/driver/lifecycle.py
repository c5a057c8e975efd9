"""The fake's instances come and go, and change their power state."""

from __future__ import annotations

import string
import tempfile
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

from cowshed import clock
from cowshed.contract import block_device
from cowshed.contract.types import BlockDevices, NetworkInfo
from cowshed.driver.steps import mapping
from cowshed.driver.steps.disk_names import disk_name
from cowshed.errors import (
    DiskNotFound,
    DiskTooSmall,
    HostUnsuitable,
    InstanceNotFound,
    InvalidRequest,
    InvalidState,
    NameTaken,
    PortInUse,
)
from cowshed.model.disk import Base, DiskFormat, DiskSource, DiskType
from cowshed.model.event import Transition
from cowshed.model.image import Image
from cowshed.model.instance import Ending, Instance, InstanceInfo, PowerState, RebootType
from cowshed.model.vif import Vif
from cowshed.testing.disks import MemoryDisk
from cowshed.testing.driver.guest import FakeGuest
from cowshed.testing.driver.table import Table
from cowshed.undo import Undo
from cowshed.units import GiB, MiB

_OFF = (PowerState.SHUTDOWN, PowerState.CRASHED, PowerState.NOSTATE)


class FakeLifecycle(Table):
    def init_host(self, host: str) -> None:
        """Nothing has to be reached."""

    def spawn(
        self,
        context: Any,
        instance: Instance,
        image_meta: Image,
        injected_files: Sequence[tuple[str, bytes | str]],
        admin_password: str | None,
        network_info: NetworkInfo = None,
        block_device_info: BlockDevices = None,
    ) -> None:
        if not self.enabled:
            raise HostUnsuitable(reason="it is disabled")
        if instance.uuid in self.guests or any(guest.name == instance.name for guest in self.guests.values()):
            raise NameTaken(kind="instance", name=instance.name)
        vifs = list(network_info or ())
        self._check_ports(vifs)
        least = max(image_meta.virtual_size, image_meta.min_disk)
        if instance.flavor.root and instance.flavor.root < least:
            raise DiskTooSmall(disk="disk", size=instance.flavor.root, needed=least)
        if instance.flavor.memory < image_meta.min_ram:
            raise InvalidRequest(reason=f"image {image_meta.name} needs {image_meta.min_ram} bytes of memory")
        guest = FakeGuest(instance, image_meta, vifs=vifs, password=admin_password or "")
        guest.files = {path: data.encode() if isinstance(data, str) else data for path, data in injected_files}
        guest.metadata = dict(instance.metadata)
        guest.volumes, guest.root = _volumes(block_device_info)
        guest.shares = self.expected_shares.pop(instance.uuid, [])
        with Undo() as undo:
            undo.push("delete the disks", self._delete_disks, instance)
            self._make_disks(instance, image_meta, block_device_info)
            self.guests[instance.uuid] = guest
            undo.push("forget the guest", self.guests.pop, instance.uuid, None)
            self._boot(guest)

    def _check_ports(self, vifs: Sequence[Vif]) -> None:
        taken = {one.host_port for guest in self.guests.values() for vif in guest.vifs for one in vif.forwards}
        for forward in (forward for vif in vifs for forward in vif.forwards):
            if forward.host_port in taken:
                raise PortInUse(port=forward.host_port, address=forward.host_address)

    # --- disks --------------------------------------------------------------------------------

    def _make_disks(self, instance: Instance, image: Image, block_devices: BlockDevices) -> None:
        flavor = instance.flavor
        chosen = {disk_name(word): backend for word, backend in instance.disk_backends.items()}

        def disk(name: str) -> MemoryDisk:
            return self._backend(chosen.get(name) or instance.backend).disk(instance.uuid, name)

        if mapping.root_volume(block_devices) is None:
            self._fill(disk("disk"), image, flavor.root)
        for number, one in enumerate(block_device.block_device_info_get_ephemerals(block_devices)):
            size = one["size"] if isinstance(one, dict) else one.size
            disk(f"disk.eph{number}").create(size * GiB)
        if flavor.ephemeral:
            disk("disk.local").create(flavor.ephemeral)
        swap = block_device.block_device_info_get_swap(block_devices)
        size = swap["swap_size"] * MiB if block_device.swap_is_usable(swap) else flavor.swap
        if size:
            disk("disk.swap").create(size)

    def _fill(self, disk: MemoryDisk, image: Image, size: int) -> None:
        """What a guest sees of the image, not the bytes it is stored as."""
        from cowshed.tools import transfer

        with tempfile.TemporaryDirectory(prefix="cowshed-") as folder:
            stored, raw = Path(folder) / "stored", Path(folder) / "raw"
            self.images.download(image, stored)
            if image.disk_format == DiskFormat.QCOW2:
                transfer.export(DiskSource(DiskType.FILE, DiskFormat.QCOW2, stored), raw, DiskFormat.RAW)
            else:
                stored.rename(raw)
            disk.create(size, Base(raw, DiskFormat.RAW, raw.stat().st_size, image_id=image.id))

    def _disks(self, instance: Instance) -> list[MemoryDisk]:
        return [disk for backend in self.backends.values() for disk in backend.disks(instance.uuid)]

    def _disk(self, instance: Instance, word: str) -> MemoryDisk:
        self._find(instance)
        for disk in self._disks(instance):
            if disk.name == disk_name(word or "root"):
                return disk
        raise DiskNotFound(name=f"{word or 'root'} of instance {instance.name}")

    def _delete_disks(self, instance: Instance) -> None:
        for disk in self._disks(instance):
            disk.delete()

    # --- and go -------------------------------------------------------------------------------

    def destroy(
        self,
        context: Any,
        instance: Instance,
        network_info: NetworkInfo = None,
        block_device_info: BlockDevices = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
    ) -> None:
        if guest := self.guests.get(instance.uuid):
            self._off(guest)
        self._clean(instance, destroy_disks=destroy_disks)

    def cleanup(
        self,
        context: Any,
        instance: Instance,
        network_info: NetworkInfo = None,
        block_device_info: BlockDevices = None,
        destroy_disks: bool = True,
        migrate_data: Any = None,
        destroy_vifs: bool = True,
    ) -> None:
        self._clean(instance, destroy_disks=destroy_disks)

    def _clean(self, instance: Instance, *, destroy_disks: bool) -> None:
        self.guests.pop(instance.uuid, None)
        if destroy_disks:
            self._delete_disks(instance)

    def delete_instance_files(self, instance: Instance) -> bool:
        self._delete_disks(instance)
        return True

    def instance_on_disk(self, instance: Instance) -> bool:
        return any(disk.name == "disk" for disk in self._disks(instance))

    def soft_delete(self, instance: Instance) -> None:
        if guest := self.guests.get(instance.uuid):
            self._off(guest)
            guest.soft_deleted = True

    def restore(self, instance: Instance) -> None:
        self.undelete(instance, power_on=True)

    def undelete(self, instance: Instance, *, power_on: bool) -> None:
        """As the real driver's: a restore that may leave it off."""
        guest = self._find(instance)
        guest.soft_deleted = False
        if power_on and not guest.running:
            self._boot(guest)

    def set_bootable(self, instance: Instance, is_bootable: bool) -> None:
        self._find(instance).bootable = is_bootable

    # --- power --------------------------------------------------------------------------------

    def power_on(
        self, context: Any, instance: Instance, network_info: NetworkInfo, block_device_info: BlockDevices = None
    ) -> None:
        guest = self._find(instance)
        if guest.state == PowerState.PAUSED or (guest.saved and guest.bootable):
            self._wake(guest)
        elif not guest.running:
            self._boot(guest)

    def power_off(self, instance: Instance, timeout: float = 0, retry_interval: float = 0) -> None:
        self.switch_off(instance, timeout=timeout, retry_interval=retry_interval)

    def switch_off(self, instance: Instance, *, timeout: float, retry_interval: float) -> Ending | None:
        """As the real driver's: it says how the guest ended; None: it was off."""
        guest = self.guests.get(instance.uuid)
        if guest is None:
            if timeout:
                return None
            raise InstanceNotFound(name=instance.name)
        was_on, hears = guest.state not in _OFF, guest.state == PowerState.RUNNING and not guest.deaf
        if timeout and guest.deaf:
            clock.current().sleep(timeout)
        self._off(guest)
        if not was_on:
            return None
        return Ending.SHUT_DOWN if timeout and hears else Ending.CUT_OFF

    def _off(self, guest: FakeGuest) -> None:
        guest.saved = False
        if guest.state not in _OFF:
            self._move(guest, PowerState.SHUTDOWN, Transition.STOPPED)

    def reboot(
        self,
        context: Any,
        instance: Instance,
        network_info: NetworkInfo,
        reboot_type: str,
        block_device_info: BlockDevices = None,
        bad_volumes_callback: Callable[[list[str]], None] | None = None,
    ) -> None:
        soft = reboot_type == RebootType.SOFT
        self.restart(instance, network_info, timeout=self.rooms.config.power.soft_reboot_timeout if soft else 0)

    def restart(self, instance: Instance, network_info: NetworkInfo, *, timeout: float) -> None:
        """As the real driver's: a reboot that gives the guest ``timeout`` seconds."""
        guest = self._find(instance)
        if timeout and guest.running and guest.deaf:
            clock.current().sleep(timeout)
        self._off(guest)
        self._boot(guest)

    def pause(self, instance: Instance) -> None:
        guest = self._find(instance)
        if guest.state != PowerState.PAUSED:
            self._move(self._running(instance, "paused"), PowerState.PAUSED, Transition.PAUSED)

    def unpause(self, instance: Instance) -> None:
        guest = self._find(instance)
        if guest.state not in (PowerState.RUNNING, PowerState.PAUSED):
            raise InvalidState(name=guest.name, state=guest.state.name.lower(), action="unpaused")
        self._wake(guest)

    def suspend(self, context: Any, instance: Instance) -> None:
        guest = self._find(instance)
        if guest.saved:
            return
        if guest.state not in (PowerState.RUNNING, PowerState.PAUSED):
            raise InvalidState(name=guest.name, state="stopped", action="suspended")
        guest.saved = True
        self._move(guest, PowerState.SHUTDOWN, Transition.SUSPENDED)

    def resume(
        self, context: Any, instance: Instance, network_info: NetworkInfo, block_device_info: BlockDevices = None
    ) -> None:
        guest = self._find(instance)
        if not guest.running and not guest.saved:
            raise InvalidState(name=guest.name, state="not suspended", action="resumed")
        self._wake(guest)

    def _wake(self, guest: FakeGuest) -> None:
        guest.saved = False
        if not guest.running:
            self._move(guest, PowerState.RUNNING, Transition.RESUMED)

    def resume_state_on_host_boot(
        self, context: Any, instance: Instance, network_info: NetworkInfo, block_device_info: BlockDevices = None
    ) -> None:
        guest = self._find(instance)
        if guest.state in _OFF and not guest.saved:
            self._boot(guest)

    def poll_rebooting_instances(self, timeout: float, instances: Sequence[Instance]) -> None:
        for instance in instances:
            if (guest := self.guests.get(instance.uuid)) and not guest.running:
                self._boot(guest)

    def trigger_crash_dump(self, instance: Instance) -> None:
        self._running(instance, "made to dump").dumps += 1

    # --- look ---------------------------------------------------------------------------------

    def get_info(self, instance: Instance) -> InstanceInfo:
        guest = self._find(instance)
        memory = guest.instance.flavor.memory // 1024
        return InstanceInfo(
            guest.state,
            internal_id=guest.boots if guest.running or guest.state == PowerState.PAUSED else None,
            max_mem_kb=memory,
            mem_kb=memory if guest.running else 0,
            num_cpu=guest.instance.flavor.vcpus,
        )

    def instance_exists(self, instance: Instance) -> bool:
        return instance.uuid in self.guests

    def list_instances(self) -> list[str]:
        return [guest.name for guest in self.guests.values()]

    def list_instance_uuids(self) -> list[str]:
        return list(self.guests)


def _volumes(block_devices: BlockDevices) -> tuple[dict[str, Any], str]:
    """By name, and the name of the root volume; who has no name gets the next free one."""
    asked = mapping.entries(block_devices) or []
    root = next((one for one in asked if one.boot_index == 0), None)
    found: dict[str, Any] = {}
    for one in sorted(asked, key=lambda one: (not one.name, one is not root)):
        taken = {*found, *([] if root else ["/dev/vda"])}
        found[f"/dev/{one.name}" if one.name else free_name(taken)] = one.info
    return found, next((name for name, info in found.items() if root and info is root.info), "")


def free_name(taken: Collection[str]) -> str:
    return next(name for letter in string.ascii_lowercase if (name := f"/dev/vd{letter}") not in taken)
