"""What the driver introduces to each other: every room, opened when it is first used.

Opening late is what keeps ``cowshed image ls`` from needing libvirt and ``cowshed ls`` from
needing the image store.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from cowshed import config as configuration
from cowshed import log
from cowshed.contract.callbacks import SILENT, NetworkWaiter, NoNetworkWaiter, Progress
from cowshed.contract.connecting import Connector, NoVolumeService, VolumeService
from cowshed.contract.filters import NoRules, RuleProvider
from cowshed.contract.imaging import ImageService
from cowshed.contract.plugging import Plugger
from cowshed.contract.storage import Backend, KeySource
from cowshed.errors import ConfigError, HypervisorError, InvalidRequest, ToolMissing
from cowshed.model.host import HostCapabilities, VirtType
from cowshed.model.share import Share
from cowshed.model.vif import VifType

if TYPE_CHECKING:
    from cowshed.disks.directory import InstanceDirectory
    from cowshed.host.kvm import KvmState
    from cowshed.hypervisor import Hypervisor
    from cowshed.images.cache import Cache
    from cowshed.migration.policy import Monitor
    from cowshed.network.filters import Filters

_log = log.logger(__name__)

SYSTEM = Path("/run/libvirt")


class Rooms:
    """The rooms of one host, each made from its own slice of the configuration."""

    def __init__(self, config: configuration.Config | None = None) -> None:
        self.config = config or configuration.load()
        self.state = self.config.state
        self.volume_service: VolumeService = NoVolumeService()
        self.rules: RuleProvider = NoRules()
        self.waiter: NetworkWaiter = NoNetworkWaiter()
        self.monitors: dict[str, Monitor] = {}  # of the live migrations that this process drives
        self.arrivals: dict[str, ExitStack] = {}  # what is held for instances that are expected here
        self.expected_shares: dict[str, tuple[Share, ...]] = {}  # of instances that are not spawned yet
        self._local = threading.local()

    # --- places -------------------------------------------------------------------------------

    @property
    def instances(self) -> Path:
        return self.state / "instances"

    @property
    def shares(self) -> Path:
        """Where directories that guests shall see are mounted, if they must be."""
        return self.state / "shares"

    @property
    def facts(self) -> Path:
        """Answers that are expensive to get again: capabilities, the KVM probe."""
        return self.state / "host"

    def directory(self, uuid: str) -> InstanceDirectory:
        from cowshed.disks.directory import InstanceDirectory

        return InstanceDirectory(self.instances, uuid)

    # --- who hears of progress ----------------------------------------------------------------

    @property
    def progress(self) -> Progress:
        """Of the calls on this thread."""
        progress: Progress = getattr(self._local, "progress", SILENT)
        return progress

    @progress.setter
    def progress(self, progress: Progress) -> None:
        self._local.progress = progress

    # --- images and disks ---------------------------------------------------------------------

    @cached_property
    def images(self) -> ImageService:
        """Where the configuration says images are kept."""
        if self.config.images.service == "glance":
            from cowshed.images.glance import GlanceService

            return GlanceService(self.config.glance, self.config.images)
        from cowshed.images.directory import DirectoryService

        return DirectoryService(self.state / "images", self.config.images)

    @cached_property
    def cache(self) -> Cache:
        from cowshed.images.cache import Cache

        return Cache(self.state / "cache", self.config.cache)

    @cached_property
    def backends(self) -> Mapping[str, Backend]:
        from cowshed.disks import open_backends

        return open_backends(
            self.instances, self.config.disks, lvm=self.config.lvm, rbd=self.config.rbd, keys=self.keys
        )

    @cached_property
    def keys(self) -> KeySource:
        """Where the keys of encrypted disks are."""
        from cowshed.disks.keys import open_keys

        return open_keys(self.state / "keys", self.config.disks.keys, lambda: self.hypervisor.secrets)

    def backend(self, name: str) -> Backend:
        """:param name: "" is the host's default

        :raises ConfigError: there is such a kind of backend, but none is configured here
        :raises InvalidRequest: there is no such kind
        """
        name = name or self.config.disks.backend
        configuration.check_backend(name, self.backends)
        return self.backends[name]

    # --- volumes ------------------------------------------------------------------------------

    @cached_property
    def connectors(self) -> Mapping[str, Connector]:
        """How each type of volume is reached."""
        from cowshed.driver.steps.keeper import Keeper
        from cowshed.volumes import open_connectors

        return open_connectors(
            self.config.volumes,
            rbd=self.config.rbd,
            secrets=Keeper(lambda: self.hypervisor.secrets),
            state=self.state,
            private=(self.instances, self.state / "cache", self.state / "images"),
        )

    # --- hypervisor ---------------------------------------------------------------------------

    @cached_property
    def uri(self) -> str:
        if chosen := self.config.host.uri or os.environ.get("LIBVIRT_DEFAULT_URI"):
            return chosen
        if os.geteuid() == 0 and self._system_answers():
            return "qemu:///system"
        return "qemu:///session"

    @staticmethod
    def _system_answers() -> bool:
        """A daemon listens, or would be started by listening (systemd); a socket left behind is nothing."""
        from cowshed.hypervisor import session

        return session.answering(SYSTEM) is not None

    @cached_property
    def kvm(self) -> KvmState:
        """Whether KVM runs guests here; asked once and remembered on disk."""
        from cowshed.host import kvm

        host = self.config.host
        emulator, configured = host.emulator or kvm.EMULATOR, bool(host.emulator)
        return kvm.probe(host.kvm_probe_timeout, self.facts / "kvm.json", emulator=emulator, configured=configured)

    @cached_property
    def hypervisor(self) -> Hypervisor:
        """Guests of this host. libvirt probes KVM by itself and hangs on a broken one: hide it then."""
        from cowshed.hypervisor import Hypervisor

        return Hypervisor(self.uri, hide_kvm=self._hides_kvm)

    def _hides_kvm(self) -> bool:
        """Asked only when a session daemon must be started."""
        if not Path("/dev/kvm").exists():
            return False
        return self.config.host.virt_type == VirtType.QEMU or not self.kvm.usable

    @cached_property
    def capabilities(self) -> HostCapabilities:
        """What domains may use here.

        :raises ConfigError: the emulator that is configured is of no use
        """
        virt_type, note = self._virt_type()
        emulator = self.config.host.emulator
        try:
            return self.hypervisor.capabilities(
                cache=self.facts / "capabilities.json", virt_type=virt_type, note=note, emulator=emulator
            )
        except (HypervisorError, InvalidRequest, ToolMissing) as error:
            if not emulator:
                raise
            from cowshed.host import emulator as emulators

            reason = emulators.unusable(emulator) or f"libvirt cannot use it: {error}"
            raise ConfigError(source="[host] emulator", reason=reason, hint=emulators.REMEDY) from error

    def _virt_type(self) -> tuple[VirtType, str]:
        wanted = self.config.host.virt_type
        if wanted != "auto":
            return VirtType(wanted), f"{wanted} is configured"
        if self.kvm.usable:
            return VirtType.KVM, ""
        return VirtType.QEMU, self.kvm.reason

    # --- network ------------------------------------------------------------------------------

    @cached_property
    def pluggers(self) -> Mapping[VifType, Plugger]:
        from cowshed.network import open_pluggers

        return open_pluggers(
            self.config.network,
            networks=lambda: self.hypervisor.networks(),  # noqa: PLW0108 - opened only when it is asked
            start_network=lambda name: self.hypervisor.start_network(name),  # noqa: PLW0108
        )

    @cached_property
    def filters(self) -> Filters:
        """The packet filters of this host."""
        from cowshed.network.filters import Filters

        return Filters()

    def close(self) -> None:
        if "images" in self.__dict__:
            self.images.close()
        if "hypervisor" in self.__dict__:
            self.hypervisor.close()
            del self.__dict__["hypervisor"]
