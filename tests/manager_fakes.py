"""A driver whose guests are entries of a table; images, cache and disks are the real ones."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cowshed import config as configuration
from cowshed.driver.disk_export import DiskExport
from cowshed.driver.disk_listing import DiskListing
from cowshed.driver.disk_move import DiskMove
from cowshed.driver.disk_resize import DiskResize
from cowshed.driver.disk_snapshots import DiskSnapshots
from cowshed.driver.image_cache import ImageCache
from cowshed.driver.images import Images
from cowshed.driver.limits import Limits
from cowshed.driver.rooms import Rooms
from cowshed.driver.snapshot import Snapshot
from cowshed.driver.steps import provision
from cowshed.errors import CowshedError, InstanceNotFound, InvalidState
from cowshed.model.instance import Ending, Instance, PowerState
from cowshed.model.vif import Vif

URI = "fake:///one"


class PretendDriver(DiskListing, DiskResize, DiskMove, DiskSnapshots, DiskExport, Limits, Images, ImageCache, Snapshot):
    """What the manager calls, without libvirt. ``fail[name]`` is raised by the method of that name."""

    def __init__(self, virtapi: object = None, *, config: configuration.Config | None = None) -> None:
        self.rooms = Rooms(config)
        self.rooms.__dict__["uri"] = config.host.uri if config and config.host.uri else URI
        self.rooms.__dict__["capabilities"] = SimpleNamespace(note="", virt_type="qemu")
        self.rooms.__dict__["hypervisor"] = SimpleNamespace(find=self._guest, guest=self._guest)
        self.power: dict[str, PowerState] = {}
        self.saved: set[str] = set()
        self.deaf: set[str] = set()
        self.calls: list[tuple[str, ...]] = []
        self.fail: dict[str, BaseException] = {}
        self.addresses: list[str] = []
        self.listeners: list[Any] = []
        self.gate = threading.Event()
        self.gate.set()
        self.closed = False

    def _call(self, name: str, instance: Instance, *more: object) -> None:
        self.calls.append((name, instance.name, *map(str, more)))
        if name in self.fail:
            raise self.fail[name]

    def clear_leftovers(self) -> None:
        self.calls.append(("clear_leftovers",))

    def _guest(self, uuid: str) -> Any:
        """What the disks' verbs ask of a guest."""
        if uuid not in self.power:
            return None
        return SimpleNamespace(state=lambda: self.power[uuid], has_saved=lambda: False, call=lambda *_: None)

    @contextmanager
    def reporting(self, progress: Any) -> Iterator[None]:
        before, self.rooms.progress = self.rooms.progress, progress
        try:
            yield
        finally:
            self.rooms.progress = before

    def spawn(
        self,
        context: Any,
        instance: Instance,
        image_meta: Any,
        injected_files: Any,
        admin_password: Any,
        network_info: Sequence[Vif] = (),
        block_device_info: Any = None,
    ) -> None:
        self.gate.wait(20)
        provision.check_sizes(instance, image_meta)
        self._call("spawn", instance)
        self.spawned = (instance, image_meta, network_info)
        self.power[instance.uuid] = PowerState.RUNNING

    def destroy(self, context: Any, instance: Instance, network_info: Any = None) -> None:
        self._call("destroy", instance)
        self.power.pop(instance.uuid, None)

    def soft_delete(self, instance: Instance) -> None:
        self._call("soft_delete", instance)
        self.power[instance.uuid] = PowerState.SHUTDOWN

    def undelete(self, instance: Instance, *, power_on: bool) -> None:
        self._call("undelete", instance)
        if power_on:
            self.power[instance.uuid] = PowerState.RUNNING

    def power_on(self, context: Any, instance: Instance, network_info: Any = None) -> None:
        self._call("power_on", instance)
        self.saved.discard(instance.uuid)
        self.power[instance.uuid] = PowerState.RUNNING

    def switch_off(self, instance: Instance, *, timeout: float, retry_interval: float) -> Ending | None:
        """Who is asked shuts down; ``deaf`` ones do not."""
        self._call("switch_off", instance, timeout)
        self.saved.discard(instance.uuid)
        before, self.power[instance.uuid] = self.power[instance.uuid], PowerState.SHUTDOWN
        if before not in (PowerState.RUNNING, PowerState.PAUSED):
            return None
        hears = before == PowerState.RUNNING and instance.name not in self.deaf
        return Ending.SHUT_DOWN if timeout and hears else Ending.CUT_OFF

    def reboot(self, context: Any, instance: Instance, network_info: Any, reboot_type: str) -> None:
        self._call("reboot", instance, reboot_type)
        self.saved.discard(instance.uuid)
        self.power[instance.uuid] = PowerState.RUNNING

    def restart(self, instance: Instance, network_info: Any, *, timeout: float) -> None:
        self._call("restart", instance, timeout)
        self.power[instance.uuid] = PowerState.RUNNING

    def pause(self, instance: Instance) -> None:
        self._call("pause", instance)
        if self.power[instance.uuid] not in (PowerState.RUNNING, PowerState.PAUSED):
            raise InvalidState(name=instance.name, state="stopped", action="paused")
        self.power[instance.uuid] = PowerState.PAUSED

    def unpause(self, instance: Instance) -> None:
        self._call("unpause", instance)
        self.power[instance.uuid] = PowerState.RUNNING

    def suspend(self, context: Any, instance: Instance) -> None:
        self._call("suspend", instance)
        self.power[instance.uuid] = PowerState.SHUTDOWN
        self.saved.add(instance.uuid)

    def resume(self, context: Any, instance: Instance, network_info: Any) -> None:
        self._call("resume", instance)
        if instance.uuid not in self.saved:
            raise InvalidState(name=instance.name, state="not suspended", action="resumed")
        self.saved.remove(instance.uuid)
        self.power[instance.uuid] = PowerState.RUNNING

    def power_states(self) -> dict[str, PowerState]:
        if "power_states" in self.fail:
            raise self.fail["power_states"]
        return dict(self.power)

    def with_saved_memory(self) -> set[str]:
        return set(self.saved)

    def rescued(self, instance: Instance) -> bool:
        return False

    def resized(self, instance: Instance) -> bool:
        if "resized" in self.fail:
            raise self.fail["resized"]
        return False

    def moved_to(self, instance: Instance) -> str:
        return ""

    def ran_before(self, instance: Instance) -> bool:
        return False

    def volumes(self, instance: Instance) -> tuple[Any, ...]:
        return ()

    def guest_addresses(self, instance: Instance) -> list[str]:
        return self.addresses

    def console_log_path(self, instance: Instance) -> Path:
        return self.rooms.state / f"{instance.name}.log"

    def follow_console(
        self, instance: Instance, *, until: str | None, timeout: float | None, start: int
    ) -> Iterator[bytes]:
        from cowshed.console import log

        return log.follow(self.console_log_path(instance), until=until, timeout=timeout, start=start)

    def get_vnc_console(self, context: Any, instance: Instance) -> Any:
        if self.power.get(instance.uuid) != PowerState.RUNNING:
            raise InstanceNotFound(name=instance.name)
        from cowshed.model.console import VncConsole

        return VncConsole(host="127.0.0.1", port=5901)

    def get_spice_console(self, context: Any, instance: Instance) -> Any:
        from cowshed.model.console import SpiceConsole

        return SpiceConsole("::1", 0, None, 5902)

    def register_event_listener(self, callback: Any) -> None:
        self.listeners.append(callback)

    def doctor(self) -> list[Any]:
        from cowshed.model.host import Finding

        return [Finding("ok", "QEMU", "it is there"), *getattr(self, "findings", [])]

    def cleanup_host(self, host: str) -> None:
        self.closed = True

    def names(self) -> list[str]:
        """Of the calls so far."""
        return [call[0] for call in self.calls]


def settings(state: Path, **sections: dict[str, Any]) -> configuration.Config:
    """A configuration whose state is ``state``; ``network={"default": "none"}`` changes an option."""
    config = configuration.Config(host=configuration.HostSection(state=str(state)))
    for name, changes in sections.items():
        config = dataclasses.replace(config, **{name: dataclasses.replace(getattr(config, name), **changes)})
    return config


def raw_image(path: Path, size: int = 1 << 20) -> Path:
    """A small bootable-looking disk."""
    data = bytearray(size)
    data[:3] = b"\xeb\x63\x90"
    data[510:512] = b"\x55\xaa"
    path.write_bytes(data)
    return path


__all__ = ["URI", "CowshedError", "PretendDriver", "raw_image", "settings"]
