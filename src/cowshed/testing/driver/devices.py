"""The fake's volumes, limits and interfaces."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cowshed.contract.types import NetworkInfo
from cowshed.domain import qos
from cowshed.domain.read import PluggedInterface
from cowshed.errors import (
    DeadlineExceeded,
    DiskNotFound,
    InvalidRequest,
    NameTaken,
    SnapshotNotFound,
)
from cowshed.model.disk import IoTune
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.vif import LOCAL, Vif, VifType
from cowshed.model.volume import ROOT_ORDER, AttachedVolume
from cowshed.testing.driver.lifecycle import FakeLifecycle, free_name
from cowshed.testing.driver.shares import FakeShares
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
        identity = infos.volume_id(connection_info)
        if identity in [infos.volume_id(one) for one in guest.volumes.values()]:
            raise NameTaken(kind="volume", name=identity)
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
                size=guest.sizes.get(infos.volume_id(info), 0),
            )
            for name, info in guest.volumes.items()
        )

    def volume_sizes(self, instance: Instance) -> dict[str, int]:
        """Of a guest that does not run only what this host would have."""
        guest = self._find(instance)
        here = {infos.volume_id(one) for one in guest.volumes.values() if infos.type_of(one) in ("file", "local")}
        return {name: size for name, size in guest.sizes.items() if guest.running or name in here}

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
        real = [one for one in guest.vifs if one.type != VifType.NONE]  # which ends with the first that leads somewhere
        if vif.address.lower() in [one.address.lower() for one in real]:
            raise InvalidRequest(reason=f"{guest.name} has an interface with the address {vif.address} already")
        self._check_ports([vif])
        guest.vifs = [*real, vif]

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

    # --- filters: a fake guest has no packets ---------------------------------------------------

    def ensure_filtering_rules_for_instance(self, instance: Instance, network_info: NetworkInfo) -> None:
        """Nothing passes anyway."""

    def check_filtering(self, instance: Instance, vifs: Sequence[Vif]) -> None:
        """It can be, because nothing passes."""

    def inject_network_info(self, instance: Instance, nw_info: NetworkInfo) -> None:
        if guest := self.guests.get(instance.uuid):
            guest.vifs = list(nw_info or ())

    def tell_network(self, instance: Instance, vifs: Sequence[Vif]) -> None:
        self._find(instance).vifs = list(vifs)

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
