"""The fake's volumes, interfaces, disks, snapshots, rescue and what is done inside a guest."""

from __future__ import annotations

import base64
import json
import tempfile
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from cowshed.contract.types import BlockDevices, NetworkInfo
from cowshed.domain import qos
from cowshed.domain.read import PluggedInterface
from cowshed.errors import (
    DeadlineExceeded,
    DiskNotFound,
    InvalidRequest,
    NameTaken,
    NotFound,
    SnapshotNotFound,
    UnsupportedOperation,
)
from cowshed.hypervisor.agent_files import Executed
from cowshed.model.disk import DiskFormat, IoTune
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.vif import LOCAL, Vif
from cowshed.model.volume import ROOT_ORDER, AttachedVolume
from cowshed.testing.driver.lifecycle import FakeLifecycle, free_name
from cowshed.testing.driver.shares import FakeShares
from cowshed.tools import mkfs
from cowshed.volumes import info as infos


class FakeDevices(FakeLifecycle, FakeShares):
    # --- limits -------------------------------------------------------------------------------

    def disk_limits(self, instance: Instance) -> dict[str, IoTune | None]:
        return {"disk": None, **self._find(instance).limits}

    def limit_disk(
        self, instance: Instance, disk: str, changes: Mapping[str, int | str], *, clear: bool = False
    ) -> IoTune | None:
        guest = self._find(instance)
        name = "disk" if disk == "root" else disk
        if name not in self.disk_limits(instance):
            raise DiskNotFound(name=f"{disk} of instance {instance.name}")
        guest.limits[name] = qos.changed(None if clear else guest.limits.get(name), changes)
        return guest.limits[name]

    # --- volumes ------------------------------------------------------------------------------

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
        guest = self._find(instance)
        name = mountpoint or free_name({"/dev/vda", *guest.volumes})
        if name.removeprefix("/dev/") in [one.removeprefix("/dev/") for one in guest.volumes]:
            raise NameTaken(kind="device", name=name)
        guest.volumes[name] = connection_info

    def detach_volume(
        self,
        connection_info: Mapping[str, Any],
        instance: Instance,
        mountpoint: str,
        encryption: Mapping[str, Any] | None = None,
    ) -> None:
        if guest := self.guests.get(instance.uuid):
            guest.volumes = {
                name: info
                for name, info in guest.volumes.items()
                if name != mountpoint and infos.volume_id(info) != infos.volume_id(connection_info)
            }

    def swap_volume(
        self,
        old_connection_info: Mapping[str, Any],
        new_connection_info: Mapping[str, Any],
        instance: Instance,
        mountpoint: str,
        resize_to: int,
    ) -> None:
        guest = self._find(instance)
        if mountpoint not in guest.volumes:
            raise InvalidRequest(reason=f"instance {guest.name} has no volume at {mountpoint}")
        guest.volumes[mountpoint] = new_connection_info

    def extend_volume(
        self, context: Any, connection_info: Mapping[str, Any], instance: Instance, requested_size: int
    ) -> None:
        identity = infos.volume_id(connection_info)
        if identity not in [one.id for one in self.volumes(instance)]:
            raise DiskNotFound(name=f"volume {identity} of {instance.name}")
        self._find(instance).sizes[identity] = requested_size

    def remove_volume(self, instance: Instance, volume_id: str, *, timeout: float | None = None) -> None:
        guest = self._find(instance)
        if volume_id not in [one.id for one in self.volumes(instance)]:
            raise DiskNotFound(name=f"volume {volume_id} of {instance.name}")
        if guest.deaf and guest.running:
            raise DeadlineExceeded(what=f"{guest.name} letting go of {volume_id}", seconds=timeout or 0.0)
        guest.volumes = {name: info for name, info in guest.volumes.items() if infos.volume_id(info) != volume_id}

    def volumes(self, instance: Instance) -> tuple[AttachedVolume, ...]:
        guest = self.guests.get(instance.uuid)
        if guest is None:
            return ()
        return tuple(
            AttachedVolume(
                infos.volume_id(info),
                dict(info),
                name.removeprefix("/dev/"),
                boot_order=ROOT_ORDER if name == guest.root else None,
            )
            for name, info in guest.volumes.items()
        )

    def volume_sizes(self, instance: Instance) -> dict[str, int]:
        return dict(self._find(instance).sizes)

    def device_metadata(self, instance: Instance) -> list[dict[str, Any]]:
        guest = self._find(instance)
        nics = [
            {"type": "nic", "bus": "none", "address": "", "mac": one.address, "tags": [one.tag]}
            for one in guest.vifs
            if one.tag
        ]
        return nics + [
            {"type": "disk", "bus": "none", "address": name, "serial": infos.volume_id(info), "tags": [info["tag"]]}
            for name, info in guest.volumes.items()
            if info.get("tag")
        ]

    def get_volume_connector(self, instance: Instance) -> dict[str, Any]:
        return {"ip": "127.0.0.1", "initiator": "iqn.2025-01.org.cowshed:fake", "host": "fake"}

    def get_all_volume_usage(
        self, context: Any, compute_host_bdms: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        counters = dict.fromkeys(("rd_req", "rd_bytes", "wr_req", "wr_bytes"), 0)
        return [
            {"volume": bdm["volume_id"], "instance": host["instance"], **counters}
            for host in compute_host_bdms
            for bdm in host["instance_bdms"]
        ]

    def volume_snapshot_create(
        self, context: Any, instance: Instance, volume_id: str, create_info: Mapping[str, Any]
    ) -> None:
        self._snapshots(instance, volume_id)[create_info["snapshot_id"]] = dict(create_info)

    def volume_snapshot_delete(
        self, context: Any, instance: Instance, volume_id: str, snapshot_id: str, delete_info: Mapping[str, Any]
    ) -> None:
        if self._snapshots(instance, volume_id).pop(snapshot_id, None) is None:
            raise SnapshotNotFound(name=f"{snapshot_id} of volume {volume_id}")

    def _snapshots(self, instance: Instance, volume_id: str) -> dict[str, dict[str, Any]]:
        """Of one volume; there are no bytes in them."""
        if volume_id not in [one.id for one in self.volumes(instance)]:
            raise DiskNotFound(name=f"volume {volume_id} of {instance.name}")
        return self._find(instance).snapshots.setdefault(volume_id, {})

    # --- interfaces ---------------------------------------------------------------------------

    def attach_interface(self, instance: Instance, image_meta: Image, vif: Vif) -> None:
        guest = self._find(instance)
        self._check_ports([vif])
        guest.vifs.append(vif)

    def detach_interface(self, instance: Instance, vif: Vif) -> None:
        if guest := self.guests.get(instance.uuid):
            guest.vifs = [one for one in guest.vifs if one.address != vif.address]

    def remove_interface(self, instance: Instance, vif: Vif, *, timeout: float | None = None) -> None:
        guest = self.guests.get(instance.uuid)
        if guest and guest.deaf and guest.running:
            raise DeadlineExceeded(what=f"{guest.name} letting go of interface {vif.address}", seconds=timeout or 0.0)
        self.detach_interface(instance, vif)

    def plug_vifs(self, instance: Instance, network_info: NetworkInfo) -> None:
        """There is no host side."""

    def unplug_vifs(self, instance: Instance, network_info: NetworkInfo) -> None:
        """There is no host side."""

    def interfaces(self, instance: Instance) -> list[PluggedInterface]:
        guest = self.guests.get(instance.uuid)
        if guest is None:
            return []
        return [
            PluggedInterface(
                one.address,
                str(one.type),
                one.source,
                "" if one.type in LOCAL else f"fake{number}",
                one.model,
                one.id not in guest.down,
            )
            for number, one in enumerate(guest.vifs)
        ]

    def set_link(self, instance: Instance, vif: Vif, *, up: bool) -> None:
        down = self._running(instance, "given a link").down
        if up:
            down.discard(vif.id)
        else:
            down.add(vif.id)

    def reset_network(self, instance: Instance) -> None:
        """There is no guest that would ask for an address."""
        self._find(instance)

    def remembered_image(self, instance: Instance) -> Image:
        return Image(id=instance.image_ref)

    # --- filters: a fake guest has no packets ---------------------------------------------------

    def ensure_filtering_rules_for_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Nothing passes anyway."""

    def check_filtering(self, instance: Instance, vifs: Sequence[Vif]) -> None:
        """It can be, because nothing passes."""

    def inject_network_info(self, instance: Instance, nw_info: NetworkInfo) -> None:
        if guest := self.guests.get(instance.uuid):
            guest.vifs = list(nw_info or ())

    def unfilter_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """There is no filter."""

    def filter_defer_apply_on(self) -> None:
        """There is no filter."""

    def filter_defer_apply_off(self) -> None:
        """There is no filter."""

    def refresh_security_group_rules(self, security_group_id: str) -> None:
        """There is no filter."""

    def refresh_instance_security_rules(self, instance: Instance) -> None:
        """There is no filter."""

    # --- disks --------------------------------------------------------------------------------

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

    # --- snapshots ----------------------------------------------------------------------------

    def snapshot(self, context: Any, instance: Instance, image_id: str, update_task_state: Callable[..., None]) -> None:
        guest = self._find(instance)
        update_task_state(task_state="image_pending_upload")
        disk = self._backend(guest.instance.backend).disk(guest.uuid, "disk")
        with tempfile.TemporaryDirectory(prefix="cowshed-") as folder:
            path = Path(folder) / "snapshot"
            disk.extract(path, DiskFormat.RAW)
            update_task_state(task_state="image_uploading", expected_state="image_pending_upload")
            with path.open("rb") as file:
                self.images.upload(Image(id=image_id, name=f"snapshot-{image_id}"), file)

    def create_image(self, instance: Instance, name: str, *, properties: Mapping[str, str] | None = None) -> Image:
        return self._image(self._find(instance), "disk", name, properties or {})

    def create_images(
        self, instance: Instance, name: str, *, properties: Mapping[str, str] | None = None
    ) -> list[Image]:
        guest = self._find(instance)
        common = {**(properties or {}), "snapshot_set": str(uuid.uuid4())}
        disks = sorted(self._backend(guest.instance.backend).disks(guest.uuid), key=lambda disk: disk.name)
        return [
            self._image(guest, disk.name, name + disk.name.removeprefix("disk").replace(".", "-"), common)
            for disk in disks
            if disk.name != "disk.swap"
        ]

    def _image(self, guest: Any, disk: str, name: str, properties: Mapping[str, str]) -> Image:
        with tempfile.TemporaryDirectory(prefix="cowshed-") as folder:
            path = Path(folder) / "snapshot"
            self._backend(guest.instance.backend).disk(guest.uuid, disk).extract(path, DiskFormat.RAW)
            with path.open("rb") as file:
                return self.images.upload(Image(id="", name=name, properties=properties), file)

    def quiesce(self, context: Any, instance: Instance, image_meta: Image) -> None:
        self._running(instance, "quiesced").frozen = True

    def unquiesce(self, context: Any, instance: Instance, image_meta: Image) -> None:
        self._running(instance, "unquiesced").frozen = False

    # --- rescue -------------------------------------------------------------------------------

    def rescue(
        self, context: Any, instance: Instance, network_info: NetworkInfo, image_meta: Image, rescue_password: str
    ) -> None:
        guest = self._find(instance)
        self.images.show(image_meta.id)
        self._off(guest)
        guest.rescued_with = image_meta
        self._boot(guest)

    def unrescue(self, instance: Instance, network_info: NetworkInfo) -> None:
        guest = self._find(instance)
        if guest.rescued_with:
            self._off(guest)
            guest.rescued_with = None
            self._boot(guest)

    def rebuild(
        self,
        context: Any,
        instance: Instance,
        image_meta: Image,
        injected_files: Sequence[tuple[str, bytes | str]],
        admin_password: str | None,
        bdms: Any,
        detach_block_devices: Callable[..., None] | None,
        attach_block_devices: Callable[..., None] | None,
        network_info: NetworkInfo = None,
        recreate: bool = False,
        block_device_info: BlockDevices = None,
        preserve_ephemeral: bool = False,
    ) -> None:
        """The root disk only; ephemeral ones stay in any case."""
        guest = self._find(instance)
        self.images.show(image_meta.id)
        self._off(guest)
        if detach_block_devices:
            detach_block_devices(context, bdms)
        disk = self._backend(guest.instance.backend).disk(instance.uuid, "disk")
        disk.delete()
        self._fill(disk, image_meta, guest.instance.flavor.root)
        if attach_block_devices:
            attach_block_devices(context, instance, bdms)
        guest.image = image_meta
        self._boot(guest)

    def rescued(self, instance: Instance) -> bool:
        return self._find(instance).rescued_with is not None

    # --- inside the guest ---------------------------------------------------------------------

    def set_admin_password(self, instance: Instance, new_pass: str) -> None:
        self._running(instance, "given a password").password = new_pass

    def inject_file(self, instance: Instance, b64_path: str, b64_contents: str) -> None:
        guest = self._running(instance, "given a file")
        guest.files[base64.b64decode(b64_path).decode()] = base64.b64decode(b64_contents)

    def write_file(self, instance: Instance, path: str, source: BinaryIO) -> int:
        content = self._running(instance, "given a file").files[path] = source.read()
        return len(content)

    def read_file(self, instance: Instance, path: str, target: BinaryIO) -> int:
        files = self._running(instance, "asked for a file").files
        if path not in files:
            raise NotFound(kind="file in the guest", name=path)
        return target.write(files[path])

    def execute(
        self, instance: Instance, command: Sequence[str], *, input: bytes = b"", timeout: float = 60.0
    ) -> Executed:
        """``echo`` and ``cat`` do what they are known for; nothing else is faked.

        :raises UnsupportedOperation:
        """
        self._running(instance, "asked to run a program")
        outputs = {"echo": " ".join(command[1:]).encode() + b"\n", "cat": input}
        if not command or command[0] not in outputs:
            raise UnsupportedOperation(subject="a fake guest", operation=f"run {command}", reason="it is no machine")
        return Executed(status=0, stdout=outputs[command[0]], stderr=b"", truncated=False)

    def change_instance_metadata(self, context: Any, instance: Instance, diff: Mapping[str, Sequence[str]]) -> None:
        guest = self._find(instance)
        for key, (sign, *value) in diff.items():
            if sign == "-":
                guest.metadata.pop(key, None)
            else:
                guest.metadata[key] = value[0]
