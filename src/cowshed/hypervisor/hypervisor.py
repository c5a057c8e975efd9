"""What is asked of libvirt about one host: what it is, its guests, networks and secrets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cowshed.errors import InstanceNotFound
from cowshed.hypervisor import power
from cowshed.hypervisor.connection import Connection

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest
    from cowshed.hypervisor.network import NetworkFact
    from cowshed.hypervisor.node import NodeInfo
    from cowshed.hypervisor.secrets import Secrets
    from cowshed.model.host import CpuStats, HostCapabilities, VirtType
    from cowshed.model.instance import InstanceInfo


class Hypervisor(Connection):
    """Guests of one host, on a connection that is opened by the first question."""

    # --- what the host is ---------------------------------------------------------------------

    def hostname(self) -> str:
        return self.call("tell the host name", lambda c: str(c.getHostname()), repeat=True)

    def version(self) -> tuple[int, int, int]:
        """Of QEMU. :raises ToolMissing: there is no QEMU"""
        return self.call("tell QEMU's version", lambda c: _version(c.getVersion()), repeat=True)

    def libvirt_version(self) -> tuple[int, int, int]:
        """Of the daemon's libvirt."""
        return self.call("tell libvirt's version", lambda c: _version(c.getLibVersion()), repeat=True)

    def capabilities(self, *, cache: Path, virt_type: VirtType, note: str = "", emulator: str = "") -> HostCapabilities:
        """What domains may use here. ``cache`` is a file that keeps the answer, so that libvirt is
        asked once per version of libvirt, QEMU and the firmwares.

        :raises ToolMissing: there is no QEMU
        :raises UnsupportedOperation: ``virt_type`` does not work here
        """
        from cowshed.hypervisor import capabilities

        return capabilities.get(self, cache=cache, virt_type=virt_type, note=note, emulator=emulator)

    def qemu_user(self) -> tuple[int, int] | None:
        """(uid, gid) that QEMU runs as; None: as the user of this libvirt (session mode)."""
        from cowshed.hypervisor import capabilities

        return capabilities.qemu_user(self)

    def node(self) -> NodeInfo:
        from cowshed.hypervisor import node

        return self.call("describe the host", node.info, repeat=True)

    def cpu_stats(self) -> CpuStats:
        from cowshed.hypervisor import node

        return self.call("tell the CPU statistics", node.cpu_stats, repeat=True)

    # --- guests -------------------------------------------------------------------------------

    def guest(self, uuid: str) -> Guest:
        """:raises InstanceNotFound: no domain has this UUID"""
        return self._guest(self.call("look up", lambda c: c.lookupByUUIDString(uuid), subject=uuid, repeat=True))

    def _guest(self, domain: Any) -> Guest:
        from cowshed.hypervisor.guest import Guest

        return Guest(self, domain)

    def find(self, uuid: str) -> Guest | None:
        try:
            return self.guest(uuid)
        except InstanceNotFound:
            return None

    def guests(self) -> list[Guest]:
        """All defined or running ones, also those that cowshed did not make."""
        return [self._guest(domain) for domain in self.call("list", lambda c: c.listAllDomains(0), repeat=True)]

    def with_saved_memory(self) -> set[str]:
        """UUIDs of those whose memory libvirt keeps on disk (``virsh managedsave``), from one call."""
        return self.call("list", power.with_saved_memory, repeat=True)

    def define(self, xml: str) -> Guest:
        """Define or redefine a domain, checked against libvirt's schema.

        :raises NameTaken: another domain has this name
        :raises HypervisorError: libvirt does not like the XML
        """
        flags = 1  # VIR_DOMAIN_DEFINE_VALIDATE
        return self._guest(self.call("define the domain", lambda c: c.defineXMLFlags(xml, flags)))

    def stats(self, uuids: Sequence[str] | None = None) -> dict[str, dict[str, Any]]:
        """libvirt's statistics (``cpu.time``, ``balloon.current``, ``block.0.rd.bytes``, ...) by UUID.

        :param uuids: of these only; those that are gone are left out. None means all
        """
        return self.call("tell the statistics", lambda c: power.stats(c, uuids), repeat=True)

    def recent_stats(self) -> dict[str, dict[str, Any]]:
        """:meth:`stats` of all, at most half a second old, and of after every change made or heard of here.

        For work that asks several things about all guests, one after the other.
        """
        return self._recent.all(self.stats)

    def recent_info(self, uuid: str) -> InstanceInfo | None:
        """What such an answer says of one guest, if there is one now and events would have told of a change."""
        known = self._recent.known() if self._callbacks is not None else None
        return power.info(known[uuid]) if known and uuid in known else None

    # --- networks -----------------------------------------------------------------------------

    def networks(self) -> list[NetworkFact]:
        from cowshed.hypervisor import network

        return self.call("list the networks", network.networks, repeat=True)

    def start_network(self, name: str) -> None:
        """Active already is success. :raises NetworkNotFound:"""
        from cowshed.hypervisor import network

        self.call("start network", lambda c: network.start(c, name), subject=name)

    @property
    def secrets(self) -> Secrets:
        """What libvirt keeps secret for us."""
        from cowshed.hypervisor.secrets import Secrets

        return Secrets(self)


def _version(number: int) -> tuple[int, int, int]:
    return number // 1_000_000, number // 1000 % 1000, number % 1000
