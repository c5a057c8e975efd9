"""The fake's host: facts, statistics, consoles, and what the manager asks beside the contract."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any
from urllib.parse import unquote, urlsplit

from cowshed import clock
from cowshed.contract.callbacks import Progress
from cowshed.contract.promise import refuse
from cowshed.errors import HostUnsuitable, InstanceNotFound, NotFound, UnsupportedOperation
from cowshed.host import resources
from cowshed.model.console import SerialConsole, SpiceConsole, VncConsole
from cowshed.model.disk import DiskFormat
from cowshed.model.host import Finding
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.testing.driver.disks import FakeDisks
from cowshed.tools import checksum
from cowshed.units import GiB

_OUTPUT = 100 * 1024


class FakeHost(FakeDisks):
    # --- consoles -----------------------------------------------------------------------------

    def get_console_output(self, context: Any, instance: Instance) -> bytes:
        self._find(instance)
        return self.console_log_path(instance).read_bytes()[-_OUTPUT:]

    def get_vnc_console(self, context: Any, instance: Instance) -> VncConsole:
        return VncConsole("127.0.0.1", 5900 + self._number(instance))

    def get_spice_console(self, context: Any, instance: Instance) -> SpiceConsole:
        return SpiceConsole("127.0.0.1", 7900 + self._number(instance))

    def get_console_pool_info(self, console_type: str) -> dict[str, str]:
        if console_type not in ("vnc", "spice", "serial"):
            refuse(self, "get_console_pool_info", f"there are no {console_type} consoles")
        return {"address": "127.0.0.1", "username": "", "password": ""}

    def get_serial_console(self, context: Any, instance: Instance) -> SerialConsole:
        return SerialConsole("127.0.0.1", 10000 + self._number(instance))

    def _number(self, instance: Instance) -> int:
        self._running(instance, "looked at")
        return list(self.guests).index(instance.uuid)

    def follow_console(
        self, instance: Instance, *, until: str | None = None, timeout: float | None = None, start: int = 0
    ) -> Iterator[bytes]:
        from cowshed.console import log

        return log.follow(self.console_log_path(instance), until=until, timeout=timeout, start=start)

    def attach_console(self, instance: Instance, stdin: IO[bytes], stdout: IO[bytes], escape: bytes = b"\x1d") -> None:
        """Shows what was printed so far."""
        self._running(instance, "looked at")
        stdout.write(self.console_log_path(instance).read_bytes())

    # --- statistics ---------------------------------------------------------------------------

    def get_diagnostics(self, instance: Instance) -> dict[str, Any]:
        guest = self._running(instance, "diagnosed")
        cpus = {f"cpu{number}_time": 0 for number in range(guest.instance.flavor.vcpus)}
        return {**cpus, "vda_read": 0, "vda_write": 0, "memory": guest.instance.flavor.memory // 1024}

    def get_instance_diagnostics(self, instance: Instance) -> dict[str, Any]:
        guest = self._running(instance, "diagnosed")
        launched = guest.instance.launched_at
        return {
            "state": "running",
            "driver": "fake",
            "hypervisor": "fake",
            "uptime": int(clock.current().time() - launched) if launched else None,
            "num_cpus": guest.instance.flavor.vcpus,
            "num_nics": len(guest.vifs),
            "num_disks": len(self._disks(instance)),
        }

    def block_stats(self, instance: Instance, disk_id: str) -> list[int] | None:
        return [0, 0, 0, 0, 0] if instance.uuid in self.guests else None

    def get_all_bw_counters(self, instances: Sequence[Instance]) -> list[dict[str, Any]]:
        guests = [guest for instance in instances if (guest := self.guests.get(instance.uuid))]
        return [
            {"uuid": guest.uuid, "mac_address": vif.address, "bw_in": 0, "bw_out": 0}
            for guest in guests
            for vif in guest.vifs
        ]

    def usage(self) -> dict[str, dict[str, int]]:
        keys = ("cpu_time", "memory", "disk_read", "disk_written", "received", "sent")
        return {guest.uuid: dict.fromkeys(keys, 0) for guest in self.guests.values() if guest.running}

    def get_per_instance_usage(self) -> dict[str, dict[str, Any]]:
        return {
            guest.uuid: {"memory_mb": guest.instance.flavor.memory_mb, "uuid": guest.uuid}
            for guest in self.guests.values()
            if guest.running
        }

    # --- host ---------------------------------------------------------------------------------

    def get_host_ip_addr(self) -> str:
        return "127.0.0.1"

    def get_host_uptime(self) -> str:
        return " 12:00:00 up 1 day,  0:00,  1 user,  load average: 0.00, 0.00, 0.00"

    def get_host_cpu_stats(self) -> dict[str, int]:
        return {"kernel": 1, "idle": 10, "user": 1, "iowait": 0, "frequency": 1000}

    def set_host_enabled(self, enabled: bool) -> str:
        self.enabled = enabled
        return "enabled" if enabled else "disabled"

    def add_to_aggregate(self, context: Any, aggregate: Any, host: str, **kwargs: Any) -> None:
        self.pools[str(aggregate["id"])] = {"name": aggregate.get("name", ""), "metadata": {}}

    def remove_from_aggregate(self, context: Any, aggregate: Any, host: str, **kwargs: Any) -> None:
        self.pools.pop(str(aggregate["id"]), None)

    def undo_aggregate_operation(
        self, context: Any, op: Callable[..., None], aggregate: Any, host: str, set_error: bool = True
    ) -> None:
        op(host)

    def aggregates(self) -> dict[str, dict[str, Any]]:
        return dict(self.pools)

    # --- shared storage: with itself ----------------------------------------------------------

    def check_instance_shared_storage_local(self, context: Any, instance: Instance) -> dict[str, str] | None:
        if not self._disks(instance):
            return None
        self.probes.add(f".shared-{instance.uuid}")
        return {"filename": f".shared-{instance.uuid}"}

    def check_instance_shared_storage_remote(self, context: Any, data: Any) -> bool:
        return data["filename"] in self.probes

    def check_instance_shared_storage_cleanup(self, context: Any, data: Any) -> None:
        if data:
            self.probes.discard(data["filename"])

    def more_flags(self) -> dict[str, bool]:
        """Tags of volumes are kept."""
        return {
            "supports_device_tagging": True,
            "supports_tagged_attach_volume": True,
            "supports_tagged_attach_interface": True,
        }

    def node_uuid(self) -> str:
        return str(uuid.uuid5(uuid.NAMESPACE_DNS, "fake"))

    def host_disabled(self) -> list[str]:
        return [] if self.enabled else ["somebody disabled it"]

    def host_maintenance_mode(self, host: str, mode: bool) -> str:
        running = ", ".join(guest.name for guest in self.guests.values() if guest.running)
        if mode and running:
            raise HostUnsuitable(reason=f"guests run here, and there is nowhere to move them: {running}")
        self.enabled = not mode
        return "on_maintenance" if mode else "off_maintenance"

    def get_available_nodes(self, refresh: bool = False) -> list[str]:
        return ["fake"]

    def get_available_resource(self, nodename: str) -> dict[str, Any]:
        flavors = [guest.instance.flavor for guest in self.guests.values() if guest.running]
        disks = [disk.info() for guest in self.guests.values() for disk in self._disks(guest.instance)]
        space = self._backend("").capacity()
        totals = resources.Totals(
            hostname="fake",
            vcpus=16,
            memory=64 * GiB,
            disk=space.total,
            disk_free=space.free,
            memory_used=0,
            version=(1, 0, 0),
            instances=len(self.guests),
        )
        usage = resources.Usage(
            vcpus=sum(flavor.vcpus for flavor in flavors),
            memory=sum(flavor.memory for flavor in flavors),
            disk=sum(info.virtual_size for info in disks),
        )
        return resources.available(totals, usage)

    # --- beside the contract: what cowshed's manager and command ask ----------------------------

    def power_states(self) -> dict[str, PowerState]:
        return {guest.uuid: guest.state for guest in self.guests.values()}

    def with_saved_memory(self) -> set[str]:
        return {guest.uuid for guest in self.guests.values() if guest.saved}

    def guest_addresses(self, instance: Instance) -> list[str]:
        try:
            guest = self._find(instance)
        except InstanceNotFound:
            return []
        return list(guest.addresses) if guest.running else []

    def doctor(self) -> list[Finding]:
        return [Finding("ok", "driver", "this is a fake; nothing can be wrong with it")]

    @contextmanager
    def reporting(self, progress: Progress) -> Iterator[None]:
        before, self.rooms.progress = self.rooms.progress, progress
        try:
            yield
        finally:
            self.rooms.progress = before

    @property
    def cache(self) -> FakeHost:
        """There is none: disks are filled from the images."""
        return self

    def bases(self) -> Sequence[Any]:
        return ()

    def clear_leftovers(self) -> None:
        """Nothing is ever left."""

    def base_users(self) -> Mapping[Path, int]:
        return {}

    def kept_bases(self) -> Sequence[tuple[str, Any]]:
        return ()

    def sweep_cache(self, *, dry_run: bool = False, all_unused: bool = False) -> Sequence[Any]:
        return ()

    def forget_bases(self, image_id: str) -> Sequence[Any]:
        return ()

    def cache_image(self, context: Any, image_id: str) -> bool:
        self.images.show(image_id)
        return False

    def pull_image(
        self,
        source: str,
        *,
        name: str | None = None,
        format: DiskFormat | None = None,
        digest: str | None = None,
        properties: Mapping[str, str] | None = None,
        min_disk: int = 0,
    ) -> Image:
        """Of a path or a ``file://`` URL. :raises UnsupportedOperation: the web is not faked"""
        from cowshed.images.record import default_name
        from cowshed.tools import format as formats

        if "://" in source and not source.startswith("file://"):
            raise UnsupportedOperation(subject="the fake driver", operation=f"pull {source}", reason="it reads files")
        path = Path(unquote(urlsplit(source).path) if "://" in source else source)
        if not path.is_file():
            raise NotFound(kind="file", name=source)
        if digest:
            algorithm, expected = checksum.parse(digest)
            checksum.check(source, algorithm, expected, checksum.of_file(path, algorithm))
        with path.open("rb") as file:
            found = formats.inspect(file.fileno(), image=source, declared=format)
            image = Image(
                id="",
                name=name or default_name(source),
                disk_format=found.format,
                properties=dict(properties or {}),
                min_disk=min_disk,
                source=source,
            )
            return self.images.upload(image, file)
