"""Volumes: attached, detached, exchanged, grown, counted; with the guest running or not."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from cowshed import log
from cowshed.contract.volumes import Volumes as VolumesContract
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import (
    counters,
    devices,
    locate,
    mapping,
    marks,
    swap,
    tagged,
    volume_checks,
    volume_settling,
    volume_snapshot,
    volumes,
)
from cowshed.errors import CowshedError, DiskNotFound, InvalidState
from cowshed.model.disk import Bus
from cowshed.model.instance import Instance
from cowshed.model.volume import AttachedVolume, VolumeState
from cowshed.undo import Undo
from cowshed.units import GiB
from cowshed.volumes import find, record
from cowshed.volumes import info as infos

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)


class Volumes(VolumesContract):
    rooms: Rooms

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
        """``tag`` in ``connection_info`` names the device in the guest's metadata (:meth:`device_metadata`).

        :raises InvalidState: it is suspended, or deleted softly
        :raises NameTaken: the volume or the name is in use :raises Conflict: another instance uses it
        :raises InvalidRequest: no room on the bus, or what the volume asks for cannot be
        """
        rooms = self.rooms
        asked = mapping.Asked(
            connection_info,
            mountpoint.removeprefix("/dev/") if mountpoint else "",
            disk_bus or "",
            device_type or "",
            encryption=encryption,
            tag=str(connection_info.get("tag") or ""),
        )
        with log.about(instance.name):
            connector = find(rooms.connectors, connection_info)
            connector.check(connection_info)
            guest = rooms.hypervisor.guest(instance.uuid)
            marks.refuse_deleted(rooms, instance, "given a volume")
            self._refuse_saved(instance, guest)
            with volumes.held(rooms, infos.volume_id(connection_info)):
                volume_settling.settle(rooms, volumes.directory(rooms, instance), infos.volume_id(connection_info))
                volume_checks.refuse_used(rooms, instance, connection_info)
                (volume,) = volume_checks.plan(
                    rooms, locate.remembered_image(rooms, instance), devices.names(guest), [asked]
                )
                volume_checks.refuse_alike(rooms, instance, volume)
                with Undo() as undo:
                    undo.push(f"take volume {volume.id} back", self._take_back, instance, guest, volume)
                    rooms.progress.phase("connect")
                    disk = volumes.connect(rooms, instance, volume)
                    rooms.progress.phase("attach")
                    devices.attach(guest, disk, volumes.finder(volume))
                    size = self._size_now(guest, volume)
                    record.save(
                        volumes.directory(rooms, instance), replace(volume, state=VolumeState.ATTACHED, size=size)
                    )
            if volume.tag:
                tagged.tell(rooms, instance, guest)

    def _size_now(self, guest: Guest, volume: AttachedVolume) -> int:
        """For who asks when the guest has ended; 0: not known. Its storage has just answered, and is asked only where no guest sees it."""
        seen = devices.sizes(guest, [volume]).get(volume.id)
        if seen is None and volume.encryption is None:
            try:
                seen = find(self.rooms.connectors, volume.connection_info).size(volume.connection_info)
            except CowshedError as error:
                _log.info("the size of volume %s is not known: %s", volume.id, error)
        return seen or 0

    def _take_back(self, instance: Instance, guest: Guest, volume: AttachedVolume) -> None:
        """Whether the guest got it is not known when libvirt went away; storage in use is not taken from it."""
        guest.devices.detach(volumes.finder(volume), timeout=5, attempts=1, what=volume.target)
        volumes.disconnect_held(self.rooms, instance.uuid, volume)

    def _refuse_saved(self, instance: Instance, guest: Guest) -> None:
        """The saved memory knows the devices of then."""
        if guest.has_saved():
            raise InvalidState(name=instance.name, state="suspended", action="given or deprived of a volume")

    def detach_volume(
        self,
        connection_info: Mapping[str, Any],
        instance: Instance,
        mountpoint: str,
        encryption: Mapping[str, Any] | None = None,
    ) -> None:
        with log.about(instance.name):
            find(self.rooms.connectors, connection_info)
            self._detach(instance, self._known(connection_info, instance, mountpoint), None)

    def _detach(self, instance: Instance, volume: AttachedVolume, timeout: float | None) -> None:
        rooms = self.rooms
        with volumes.held(rooms, volume.id):
            volumes.others(rooms, instance.uuid, volume)  # that it cannot be told is said before the guest is touched
            if guest := rooms.hypervisor.find(instance.uuid):
                self._refuse_saved(instance, guest)
                with self._detaching(instance, volume):
                    self._take_from(guest, volume, timeout)
            else:
                _log.warning("there is no domain; disconnecting volume %s", volume.id)
            rooms.progress.phase("disconnect")
            volumes.disconnect_held(rooms, instance.uuid, volume)
        volumes.forget_lock(rooms, volume.id)
        if guest and volume.tag:
            tagged.tell(rooms, instance, guest)

    @contextmanager
    def _detaching(self, instance: Instance, volume: AttachedVolume) -> Iterator[None]:
        """The record says so meanwhile, so that who is killed here is finished by others."""
        place = volumes.directory(self.rooms, instance)
        if volume.id not in [one.id for one in record.load(place)]:
            yield
            return
        record.save(place, replace(volume, state=VolumeState.DETACHING))
        try:
            yield
        except BaseException:
            record.save(place, replace(volume, state=VolumeState.ATTACHED))
            raise

    def _take_from(self, guest: Guest, volume: AttachedVolume, timeout: float | None) -> None:
        """:raises DeadlineExceeded: the guest does not let go of it"""
        self.rooms.progress.phase("detach")
        each, attempts = devices.patience(self.rooms, timeout)
        found = guest.devices.detach(
            volumes.finder(volume), timeout=each, attempts=attempts, what=volume.target or volume.id
        )
        if not found:
            _log.warning("volume %s is not in the domain; disconnecting it all the same", volume.id)

    def _known(self, info: Mapping[str, Any], instance: Instance, mountpoint: str = "") -> AttachedVolume:
        """As recorded, with the caller's connection; else as the caller says."""
        identity = infos.volume_id(info)
        for volume in volumes.recorded(self.rooms, instance):
            if volume.id == identity:
                return replace(volume, connection_info=volumes.merged(volume.connection_info, info))
        name = mountpoint.removeprefix("/dev/") if mountpoint else ""
        return AttachedVolume(
            identity, info, name, Bus.VIRTIO, serial=identity, alias=f"ua-{identity}", state=VolumeState.DETACHING
        )

    def swap_volume(
        self,
        old_connection_info: Mapping[str, Any],
        new_connection_info: Mapping[str, Any],
        instance: Instance,
        mountpoint: str,
        resize_to: int,
    ) -> None:
        """:raises UnsupportedOperation: one of them is encrypted"""
        with log.about(instance.name):
            old = self._known(old_connection_info, instance, mountpoint)
            swap.swap(self.rooms, instance, old, new_connection_info, resize_to * GiB)
            devices.note_sizes(self.rooms, instance, self.rooms.hypervisor.guest(instance.uuid))

    def extend_volume(
        self, context: Any, connection_info: Mapping[str, Any], instance: Instance, requested_size: int
    ) -> None:
        """Show the guest that a volume has grown. A file is grown here; all else the storage has grown already.

        :param requested_size: bytes
        :raises DiskNotFound: it is not attached
        :raises InvalidRequest: it would shrink, or the storage has not grown it
        """
        from cowshed.driver.steps import extend

        with log.about(instance.name):
            volume = self._known(connection_info, instance)
            extend.extend(self.rooms, instance, volume, requested_size)
            size = self._size_now(self.rooms.hypervisor.guest(instance.uuid), volume)
            for known in volumes.recorded(self.rooms, instance):
                if known.id == volume.id and size:
                    record.save(volumes.directory(self.rooms, instance), replace(known, size=size))

    def get_volume_connector(self, instance: Instance) -> dict[str, Any]:
        from cowshed.volumes import host

        section = self.rooms.config.volumes
        return host.connector(
            host.address(section.address), host.initiator(section.initiator), self.rooms.hypervisor.hostname()
        )

    def get_all_volume_usage(
        self, context: Any, compute_host_bdms: Sequence[Mapping[str, Any]]
    ) -> list[dict[str, Any]]:
        """From one bulk call; volumes of instances that do not run are left out."""
        stats = self.rooms.hypervisor.stats()
        found = []
        for host in compute_host_bdms:
            instance = host["instance"]
            disks = {disk.get("name"): disk for disk in counters.disks(stats.get(instance.uuid, {}))}
            for bdm in host["instance_bdms"]:
                disk = disks.get(str(bdm["device_name"]).removeprefix("/dev/"))
                if disk and "rd.reqs" in disk:
                    counted = {
                        "rd_req": disk["rd.reqs"],
                        "rd_bytes": disk["rd.bytes"],
                        "wr_req": disk["wr.reqs"],
                        "wr_bytes": disk["wr.bytes"],
                    }
                    found.append({"volume": bdm["volume_id"], "instance": instance, **counted})
        return found

    def volume_snapshot_create(
        self, context: Any, instance: Instance, volume_id: str, create_info: Mapping[str, Any]
    ) -> None:
        with log.about(instance.name), self._telling(context, create_info.get("snapshot_id"), "error"):
            volume_snapshot.create(self.rooms, instance, self._attached(instance, volume_id), create_info)
        self._tell(context, create_info.get("snapshot_id"), "creating")

    def volume_snapshot_delete(
        self, context: Any, instance: Instance, volume_id: str, snapshot_id: str, delete_info: Mapping[str, Any]
    ) -> None:
        with log.about(instance.name), self._telling(context, snapshot_id, "error_deleting"):
            volume_snapshot.delete(self.rooms, instance, self._attached(instance, volume_id), delete_info)
        self._tell(context, snapshot_id, "deleting")

    @contextmanager
    def _telling(self, context: Any, snapshot_id: Any, status: str) -> Iterator[None]:
        """The volume service hears of a failure, whatever it is."""
        try:
            yield
        except Exception:
            self._tell(context, snapshot_id, status)
            raise

    def _tell(self, context: Any, snapshot_id: Any, status: str) -> None:
        if snapshot_id:
            self.rooms.volume_service.update_snapshot_status(context, str(snapshot_id), status)

    def _attached(self, instance: Instance, volume_id: str) -> AttachedVolume:
        """:raises DiskNotFound:"""
        for volume in volumes.recorded(self.rooms, instance):
            if volume.id == volume_id:
                return volume
        raise DiskNotFound(name=f"volume {volume_id} of {instance.name}")

    # --- cowshed's own ------------------------------------------------------------------------

    def remove_volume(self, instance: Instance, volume_id: str, *, timeout: float | None = None) -> None:
        """Detach a volume that is on record.

        :param timeout: seconds the guest has to let go of it; None: as configured
        :raises DiskNotFound: it is not on record :raises DeadlineExceeded: the guest does not let go; it stays
        """
        with log.about(instance.name):
            self._detach(instance, self._attached(instance, volume_id), timeout)

    def volumes(self, instance: Instance) -> tuple[AttachedVolume, ...]:
        """The volumes of an instance, as recorded; passwords are left out."""
        return volumes.recorded(self.rooms, instance)

    def volume_sizes(self, instance: Instance) -> dict[str, int]:
        """Bytes of each volume, by id: as the running guest sees it, else as its file or device on this host has it.

        Storage behind a network is not asked: a server that does not answer would hold up the listing of all others.
        """
        found = devices.sizes(self.rooms.hypervisor.find(instance.uuid), self.volumes(instance))
        return volume_checks.sizes_here(self.rooms, self.volumes(instance)) | found

    def device_metadata(self, instance: Instance) -> list[dict[str, Any]]:
        """The tagged volumes and interfaces of a guest, in the words of OpenStack's metadata: type, bus, address, serial
        number or MAC address, tags. A running guest with an agent has them in ``/run/cowshed/devices.json`` too.

        :raises InstanceNotFound:
        """
        return tagged.described(self.rooms, instance, self.rooms.hypervisor.guest(instance.uuid))
