"""Moving a running guest to another libvirt: started, watched, steered.

The guest's libvirt does the work (peer to peer): it reaches the other one itself, so that the move goes on, and
ends one way or the other, when the process that asked for it is gone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, Any, Final

from cowshed import log
from cowshed.errors import (
    CowshedError,
    DeadlineExceeded,
    HostUnsuitable,
    HypervisorError,
    HypervisorUnavailable,
    InstanceNotFound,
    InvalidState,
)
from cowshed.hypervisor import power
from cowshed.hypervisor.binding import libvirt
from cowshed.hypervisor.events import EventKind, Watch
from cowshed.model.instance import PowerState
from cowshed.units import MiB

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest
    from cowshed.hypervisor.hypervisor import Hypervisor

_log = log.logger(__name__)

UNLIMITED: Final = (1 << 63) // MiB - 1  # MiB/s: the most libvirt takes
_TELL: Final = 2.0  # seconds for the statistics of the end, which come as an event
_MIGRATION_CANCELED: Final = 6  # VIR_DOMAIN_RUNNING_MIGRATION_CANCELED
_CPU_INCOMPATIBLE: Final = 91  # VIR_ERR_CPU_INCOMPATIBLE
_ONLY_AT_THE_SOURCE: Final = (
    84  # VIR_ERR_OPERATION_UNSUPPORTED: "migration statistics are available only on the source host"
)


# The first QEMU that copies translated guests (type='qemu') as they are. Those before lose what such a guest writes to a
# page that it wrote to since the copy began: the dirty bits are cleared, and the translator's TLB is not told (commit
# 03bfc2188f of QEMU, "physmem: Fix migration dirty bitmap coherency with TCG memory access"; seen with 7.2.22, of which
# every page of a guest that writes was different afterwards). What they lose most are the kernel's timers: the guest
# stands still for good.
KEEPS_WHAT_TRANSLATED_GUESTS_WRITE: Final = (9, 0, 0)


class Flag(IntFlag):
    """virDomainMigrateFlags, as far as they are used."""

    LIVE = 1
    PEER2PEER = 2
    PERSIST_DEST = 8
    UNDEFINE_SOURCE = 16
    PAUSED = 32
    NON_SHARED_DISK = 64
    NON_SHARED_INC = 128
    UNSAFE = 512
    AUTO_CONVERGE = 8192
    POSTCOPY = 32768
    TLS = 65536
    PARALLEL = 131072


class JobType(IntEnum):
    """virDomainJobType."""

    NONE = 0
    BOUNDED = 1
    UNBOUNDED = 2
    COMPLETED = 3
    FAILED = 4
    CANCELLED = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """``uri`` is the other libvirt's as this one sees it, ``address`` where the other QEMU listens ("": its host
    name). ``disks`` are targets (``vda``) whose content is copied; ``shallow``: without what lies below the top
    layer. ``bandwidth`` in bytes per second, 0: no limit. ``connections`` > 1: in parallel. ``paused``: it does not go on by itself there.
    ``live``: it goes on while it is copied; otherwise libvirt stops it for that time, and lets it go on if it stays.
    """

    uri: str
    address: str = ""
    xml: str = ""
    persistent_xml: str = ""
    disks: tuple[str, ...] = ()
    shallow: bool = False
    bandwidth: int = 0
    connections: int = 0
    auto_converge: bool = False
    post_copy: bool = False
    tls: bool = False
    unsafe: bool = False
    paused: bool = False
    live: bool = True

    def flags(self) -> Flag:
        """:raises InvalidRequest: never; what excludes each other is found in the configuration"""
        wanted = Flag.PEER2PEER | Flag.PERSIST_DEST | Flag.UNDEFINE_SOURCE
        if self.disks:
            wanted |= Flag.NON_SHARED_INC if self.shallow else Flag.NON_SHARED_DISK
        for flag, on in (
            (Flag.LIVE, self.live),
            (Flag.AUTO_CONVERGE, self.auto_converge),
            (Flag.POSTCOPY, self.post_copy),
            (Flag.TLS, self.tls),
            (Flag.UNSAFE, self.unsafe),
            (Flag.PAUSED, self.paused),
            (Flag.PARALLEL, self.connections > 1),
        ):
            if on:
                wanted |= flag
        return wanted

    def parameters(self) -> dict[str, Any]:
        found = {
            "migrate_uri": f"tcp://{_bracketed(self.address)}" if self.address else "",
            "destination_xml": self.xml,
            "persistent_xml": self.persistent_xml,
            "migrate_disks": list(self.disks),
            "bandwidth": -(-self.bandwidth // MiB),
            "parallel.connections": self.connections if self.connections > 1 else 0,
        }
        return {name: value for name, value in found.items() if value}


def _bracketed(address: str) -> str:
    return f"[{address}]" if ":" in address else address


@dataclass(frozen=True, slots=True)
class Statistics:
    """Bytes and seconds; ``downtime`` in milliseconds, of the present or, at the end, of the real pause."""

    elapsed: float = 0.0
    remaining: int = 0
    processed: int = 0
    total: int = 0
    iteration: int = 0
    downtime: int = 0

    @classmethod
    def of(cls, parameters: dict[str, Any]) -> Statistics:
        """From libvirt's job parameters."""
        get: Callable[[str], int] = lambda name: int(parameters.get(name, 0))  # noqa: E731
        return cls(
            elapsed=get("time_elapsed") / 1000,
            remaining=get("data_remaining"),
            processed=get("data_processed"),
            total=get("data_total"),
            iteration=get("memory_iteration"),
            downtime=get("downtime"),
        )


class Migration:
    """One guest on its way. As a context manager: leaving waits until libvirt's call has returned."""

    def __init__(self, guest: Guest, request: Request) -> None:
        self._guest = guest
        self._request = request
        self._thread = threading.Thread(target=self._work, name=f"cowshed-migrate-{guest.name}", daemon=True)
        self._over = threading.Event()
        self._watch: Watch | None = None
        self.error: CowshedError | None = None

    def __enter__(self) -> Migration:
        self._watch = self._guest.watch()
        self._watch.__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.join()
        if self._watch:
            self._watch.__exit__()

    def _work(self) -> None:
        request = self._request
        parameters, flags = request.parameters(), int(request.flags())
        try:
            self._guest.call("migrate", lambda d: d.migrateToURI3(request.uri, parameters, flags))
        except CowshedError as error:
            self.error = self._whose(error)
        finally:
            self._over.set()

    def _whose(self, error: CowshedError) -> CowshedError:
        """libvirt says of the way to the other libvirt what it says of ours: that it broke."""
        if not isinstance(error, HypervisorUnavailable):
            return error
        try:
            self._guest.state()
        except CowshedError:
            return error
        reason = f"the connection to {self._request.uri} was lost: {error.fields['reason']}"
        return HypervisorError(action=f"migrate {self._guest.name}", reason=reason)

    def wait(self, seconds: float) -> bool:
        """Is it over, within ``seconds``?"""
        return self._over.wait(seconds)

    def statistics(self) -> Statistics | None:
        """As it is now; None before it has begun and after it is over."""
        return running(self._guest)

    def final(self) -> Statistics | None:
        """What was told at the end, with the real downtime."""
        if self._watch is None:
            return None
        try:
            event = self._watch.wait(lambda event: event.kind == EventKind.JOB_COMPLETED, timeout=_TELL, what="")
        except DeadlineExceeded:
            return None
        return Statistics.of(dict(event.data))


def running(guest: Guest) -> Statistics | None:
    """Of the job under way on ``guest``; empty where it is coming in; None: there is none, or no guest any more.

    :raises CowshedError: libvirt does not say
    """
    module = libvirt()

    def look(domain: Any) -> dict[str, Any]:
        try:
            return dict(domain.jobStats(0))
        except module.libvirtError as error:
            if error.get_error_code() == _ONLY_AT_THE_SOURCE:
                return {"type": JobType.UNBOUNDED}
            raise

    try:
        found = guest.call("ask for the job of", look, repeat=True)
    except (InvalidState, InstanceNotFound):
        return None
    kind = found.get("type", JobType.NONE)
    return Statistics.of(found) if kind in (JobType.BOUNDED, JobType.UNBOUNDED) else None


def taken_back(guest: Guest) -> bool:
    """Does it run because libvirt let it go on, after it had stood still for the last step of a migration that failed?

    Kept by libvirt beyond its own restart, until somebody pauses the guest. Never of a migration that failed before.
    """
    state, reason = guest.call("tell the state of", lambda d: tuple(d.state()), repeat=True)
    return power.state(state) == PowerState.RUNNING and reason == _MIGRATION_CANCELED


def require_running(guest: Guest, action: str) -> None:
    """:raises InvalidState: no migration of it is under way"""
    if running(guest) is None:
        raise InvalidState(name=guest.name, state="not on its way to another host", action=action)


def abort(guest: Guest) -> None:
    """:raises InvalidState: nothing is under way, or it is past the point of return"""
    guest.call("give up to migrate", lambda d: d.abortJob())


def start_post_copy(guest: Guest) -> None:
    """The guest goes on at the destination now and fetches its memory as it needs it; there is no way back."""
    guest.call("switch the migration to post-copy of", lambda d: d.migrateStartPostCopy(0))


def set_downtime(guest: Guest, milliseconds: int) -> None:
    guest.call("set the downtime of", lambda d: d.migrateSetMaxDowntime(milliseconds, 0))


def lift_bandwidth(guest: Guest) -> None:
    """A paused guest at two MiB a second stands still for minutes: no limit any more."""
    guest.call("lift the bandwidth of", lambda d: d.migrateSetMaxSpeed(UNLIMITED, 0))


def live_xml(guest: Guest, *, inactive: bool = False) -> str:
    """The domain in the form that another host's libvirt takes."""
    flags = 8 | (2 if inactive else 0)  # VIR_DOMAIN_XML_MIGRATABLE, _INACTIVE
    return guest.call("describe", lambda d: str(d.XMLDesc(flags)), repeat=True)


def check_cpu(hypervisor: Hypervisor, cpu: str, *, emulator: str, arch: str, machine: str, virt_type: str) -> None:
    """Can a guest with the processor ``cpu`` (XML) run here?

    :raises HostUnsuitable: with what is missing
    """
    module = libvirt()

    def compare(connection: Any) -> int:
        try:
            return int(connection.compareHypervisorCPU(emulator, arch, machine, virt_type, cpu, 0))
        except module.libvirtError as error:
            if error.get_error_code() == _CPU_INCOMPATIBLE:
                return 0
            raise

    if hypervisor.call("compare processors", compare, repeat=True) <= 0:
        raise HostUnsuitable(
            reason="its processor, or QEMU's translation, lacks what the guest's processor has",
            hint="give the instance an older CPU model ([guest] cpu_mode)",
        )
