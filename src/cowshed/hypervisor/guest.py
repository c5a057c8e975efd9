"""Guest: the libvirt handle of one instance."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING, Any, Final, TypeVar

from cowshed import log
from cowshed.clock import Deadline
from cowshed.errors import (
    CowshedError,
    DeadlineExceeded,
    HypervisorError,
    HypervisorUnavailable,
    InstanceNotFound,
    InvalidState,
    UnsupportedOperation,
)
from cowshed.hypervisor import metadata, power
from cowshed.hypervisor.agent import Agent
from cowshed.hypervisor.events import EventKind, GuestEvent, Watch
from cowshed.hypervisor.stream import ConsoleStream
from cowshed.model.instance import InstanceInfo, PowerState

if TYPE_CHECKING:
    from cowshed.hypervisor.blockjob import BlockJobs
    from cowshed.hypervisor.devices import Devices
    from cowshed.hypervisor.hypervisor import Hypervisor

_log = log.logger(__name__)
T = TypeVar("T")

OFF: Final = frozenset({PowerState.SHUTDOWN, PowerState.CRASHED, PowerState.NOSTATE})
SAFETY_NET: Final = 2.0  # seconds after which a state is read again although no event has come
GIVING_UP: Final = 30.0  # seconds until an aborted call must have returned

_PAUSED: Final = 1  # VIR_DOMAIN_START_PAUSED
_INACTIVE: Final = 2  # VIR_DOMAIN_XML_INACTIVE
_RUNNING: Final = 2  # VIR_DOMAIN_SAVE_RUNNING
# VIR_DOMAIN_UNDEFINE_MANAGED_SAVE, _SNAPSHOTS_METADATA, _NVRAM, _CHECKPOINTS_METADATA, _TPM (since libvirt 8.9)
_EVERYTHING: Final = 1 | 2 | 4 | 16
_TPM: Final = 32


class Guest:
    """One domain. The handle stays good when libvirt restarts; the instance may be gone any time:
    then every call raises InstanceNotFound.
    """

    def __init__(self, hypervisor: Hypervisor, domain: Any) -> None:
        self._hypervisor = hypervisor
        self._domain = domain
        self._generation = hypervisor.generation
        self.uuid: str = domain.UUIDString()
        self.name: str = domain.name()

    def __repr__(self) -> str:
        return f"<Guest {self.name} {self.uuid}>"

    @property
    def agent(self) -> Agent:
        """The QEMU guest agent in it, whether it answers or not."""
        return Agent(self)

    @property
    def devices(self) -> Devices:
        """What can be plugged while it runs."""
        from cowshed.hypervisor.devices import Devices

        return Devices(self)

    @property
    def block_jobs(self) -> BlockJobs:
        """Work on its disks while it runs."""
        from cowshed.hypervisor.blockjob import BlockJobs

        return BlockJobs(self)

    def call(self, action: str, function: Callable[[Any], T], *, repeat: bool = False) -> T:
        """``function(virDomain)`` with errors translated; see ``Hypervisor.call``."""
        return self._hypervisor.call(
            action, lambda connection: function(self._resolve(connection)), subject=self.name, repeat=repeat
        )

    def _resolve(self, connection: Any) -> Any:
        """The domain on the present connection: a handle dies with the connection it came from."""
        if self._generation != self._hypervisor.generation:
            self._domain = connection.lookupByUUIDString(self.uuid)
            self._generation = self._hypervisor.generation
        return self._domain

    # --- what it is ---------------------------------------------------------------------------

    def state(self) -> PowerState:
        return self.call("tell the state of", lambda d: power.state(d.state()[0]), repeat=True)

    def info(self) -> InstanceInfo:
        return self.call("describe", _info, repeat=True)

    def xml(self, *, inactive: bool = False) -> str:
        """The domain as it runs, or as it is defined (``inactive``)."""
        return self.call("describe", lambda d: str(d.XMLDesc(_INACTIVE if inactive else 0)), repeat=True)

    def persistent(self) -> bool:
        return self.call("describe", lambda d: bool(d.isPersistent()), repeat=True)

    def in_control_group(self) -> bool:
        """Has libvirt put the running guest into one? Not told by its XML, which names one in any case."""
        try:
            return bool(self.call("describe", lambda domain: domain.schedulerParameters(), repeat=True))
        except (InvalidState, UnsupportedOperation):
            return False

    def block_stats(self, device: str) -> tuple[int, int, int, int, int]:
        """Read requests, read bytes, write requests, write bytes, errors of ``device`` (``vda``)."""
        values = self.call("tell the disk statistics of", lambda d: d.blockStats(device), repeat=True)
        requests, size, writes, written, errors = (max(0, value) for value in values)
        return requests, size, writes, written, errors  # QEMU says -1 for errors it does not count

    # --- power --------------------------------------------------------------------------------

    def start(self, *, paused: bool = False) -> None:
        """Start QEMU, from the saved memory if there is one; running already is an InvalidState."""
        self.call("start", lambda d: d.createWithFlags(_PAUSED if paused else 0))

    def shutdown(self) -> None:
        """Ask the guest to power off: through its agent if that is connected, else by ACPI."""
        # Without flags libvirt uses a connected agent and falls back to ACPI if that does not answer.
        self.call("shut down", lambda d: d.shutdownFlags(0))

    def reboot(self) -> None:
        """Ask the guest to boot again, through its agent or by ACPI."""
        self.call("reboot", lambda d: d.reboot(0))

    def destroy(self) -> None:
        """End QEMU now; off or gone already is success. Writes that QEMU holds are flushed where it can."""
        for attempt in (1, 2, 3):
            try:
                return self.call("stop", lambda d: d.destroyFlags(0))
            except InstanceNotFound:
                return None
            except InvalidState:
                if self._is_off():
                    return None
                raise
            except HypervisorError as error:  # QEMU in uninterruptible I/O: libvirt gave up waiting for its end
                _log.warning("could not stop %s (attempt %d): %s", self.name, attempt, error)
                if attempt == 3:
                    raise
        return None

    def _is_off(self) -> bool:
        try:
            return self.state() in OFF
        except InstanceNotFound:
            return True

    def suspend(self) -> None:
        """Stop its CPUs; the memory stays."""
        self.call("pause", lambda d: d.suspend())

    def resume(self) -> None:
        """Let its CPUs go on."""
        self.call("resume", lambda d: d.resume())

    def save(self, *, running: bool = False) -> None:
        """Memory to the host's disk, QEMU ends; the next start restores it, paused if it was.

        ^C gives it up: the guest goes on as before.

        :param running: the next start lets it run, also where it is paused now
        """
        self._interruptibly("save", lambda d: d.managedSave(_RUNNING if running else 0))

    def _interruptibly(self, action: str, function: Callable[[Any], object]) -> None:
        """A long call, on a thread of its own: inside libvirt nothing could reach us."""
        outcome: list[BaseException] = []

        def work() -> None:
            try:
                self.call(action, function)
            except CowshedError as error:
                outcome.append(error)

        thread = threading.Thread(target=work, name=f"cowshed-{action}", daemon=True)
        thread.start()
        try:
            thread.join()
        except BaseException:
            _log.info("giving up to %s %s", action, self.name)
            try:
                self.call(f"give up to {action}", lambda d: d.abortJob())
            except CowshedError as error:
                _log.debug("nothing to give up: %s", error)
            thread.join(GIVING_UP)
            raise
        if outcome:
            raise outcome[0]

    def has_saved(self) -> bool:
        return self.call("describe", lambda d: bool(d.hasManagedSaveImage(0)), repeat=True)

    def discard_saved(self) -> None:
        """Forget the saved memory; none is success."""
        if self.has_saved():
            self.call("discard the saved memory of", lambda d: d.managedSaveRemove(0))

    def inject_nmi(self) -> None:
        """:raises UnsupportedOperation: this kind of guest has no NMI"""
        self.call("send an NMI to", lambda d: d.injectNMI(0))

    # --- its definition -----------------------------------------------------------------------

    def undefine(self) -> None:
        """Remove the definition with everything libvirt keeps beside it; already gone is success."""
        try:
            self.call("undefine", _undefine)
        except InstanceNotFound:
            pass
        except InvalidState:
            if self._is_defined():
                raise

    def _is_defined(self) -> bool:
        try:
            return self.persistent()
        except InstanceNotFound:
            return False

    def autostart(self) -> bool:
        return self.call("describe", lambda d: bool(d.autostart()), repeat=True)

    def set_autostart(self, wanted: bool) -> None:
        """With the host (system mode) or with libvirt's daemon (session mode)."""
        self.call("set autostart of", lambda d: d.setAutostart(int(wanted)))

    def metadata(self) -> str | None:
        """Our XML element in the domain, None if there is none."""
        return self.call("read the metadata of", metadata.read, repeat=True)

    def set_metadata(self, element: str | None) -> None:
        """Put our XML element into the domain, live and defined; None removes it."""
        self.call("write the metadata of", lambda d: metadata.write(d, element))

    # --- waiting ------------------------------------------------------------------------------

    def wait(self, state: PowerState | Collection[PowerState], timeout: float | None, what: str) -> PowerState:
        """Until it is in ``state`` (one of them), which is returned. A guest that is gone is SHUTDOWN.

        Waits on events; reading again every two seconds is only the safety net. libvirt may restart
        meanwhile.

        :raises DeadlineExceeded: it was not in time; ``what`` completes "... did not happen"
        """
        wanted = {state} if isinstance(state, PowerState) else set(state)
        deadline = Deadline(timeout, what)
        hub = self._hypervisor.hub
        found = self._present(deadline)  # most calls of libvirt return when it is done: no events needed
        while found not in wanted:
            self._hypervisor.patiently(self._hypervisor.expect_events, deadline)
            seen = hub.count(self.uuid)
            found = self._present(deadline)
            if found in wanted:
                break
            deadline.check()
            left = deadline.remaining()
            hub.wait_beyond(self.uuid, seen, SAFETY_NET if left is None else min(SAFETY_NET, left))
        return found

    def _present(self, deadline: Deadline) -> PowerState:
        """As :meth:`state`, but a guest that is being shut down is not off: QEMU still holds its disks."""
        try:
            return self._hypervisor.patiently(self._settled, deadline)
        except InstanceNotFound:
            return PowerState.SHUTDOWN
        except HypervisorUnavailable:
            if deadline.passed:
                raise DeadlineExceeded(what=deadline.what, seconds=deadline.seconds) from None
            raise

    def ended(self) -> bool:
        """Is QEMU gone? Not while the guest is being shut down."""
        return self._settled() in (PowerState.SHUTDOWN, PowerState.CRASHED, PowerState.NOSTATE)

    def _settled(self) -> PowerState:
        return self.call("tell the state of", lambda d: power.settled(d.state()[0]), repeat=True)

    def patiently(self, read: Callable[[], T], deadline: Deadline) -> T:
        """``read()``, again while libvirt is away, until ``deadline``."""
        return self._hypervisor.patiently(read, deadline)

    def watch(self) -> Watch:
        """Remember its events from now on: open it before the call that causes them."""
        return self._hypervisor.watch(self.uuid)

    def wait_event(
        self,
        kind: EventKind,
        *,
        timeout: float | None,
        what: str,
        cause: Callable[[], object] | None = None,
        where: Callable[[GuestEvent], bool] = lambda event: True,
    ) -> GuestEvent:
        """The next event of ``kind`` for which ``where`` holds; ``cause`` is called when we listen already.

        :raises DeadlineExceeded: it did not come in time
        """
        with self.watch() as watch:
            if cause:
                cause()
            return watch.wait(lambda event: event.kind == kind and where(event), timeout=timeout, what=what)

    # --- console ------------------------------------------------------------------------------

    def open_console(self, *, device: str | None = None, force: bool = False) -> ConsoleStream:
        """A two-way stream to its first serial console (or ``device``, an alias).

        :param force: take it from another session
        :raises InvalidState: it does not run
        :raises Busy: another session has it
        """
        return self._hypervisor.call(
            "open the console of",
            lambda connection: ConsoleStream.open(connection, self._resolve(connection), device, force=force),
            subject=self.name,
        )


def _info(domain: Any) -> InstanceInfo:
    state, maximum, memory, cpus, cpu_time = domain.info()
    number = domain.ID()
    return InstanceInfo(
        state=power.state(state),
        internal_id=None if number < 0 else number,
        max_mem_kb=maximum,
        mem_kb=memory,
        num_cpu=cpus,
        cpu_time_ns=cpu_time,
    )


def _undefine(domain: Any) -> None:
    from cowshed.hypervisor.binding import libvirt
    from cowshed.hypervisor.errors import Number

    for flags in (_EVERYTHING | _TPM, _EVERYTHING, 0):
        try:
            domain.undefineFlags(flags)
            return
        except libvirt().libvirtError as error:
            # An older libvirt, or a driver without managed save, names the flag it does not know.
            if error.get_error_code() not in (Number.INVALID_ARG, Number.NO_SUPPORT, Number.ARGUMENT_UNSUPPORTED):
                raise
            if flags == 0:
                raise
