"""What every part of the fake driver stands on: the table of guests, the record of calls, planned failures."""

from __future__ import annotations

import functools
import shutil
import tempfile
import threading
import weakref
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from cowshed.config import Config
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.contract.compute import CAPABILITIES, ComputeDriver
from cowshed.contract.shares import Shares
from cowshed.errors import InstanceNotFound, InvalidRequest, InvalidState
from cowshed.model.event import LifecycleEvent, Transition
from cowshed.model.host import HostCapabilities
from cowshed.model.instance import Instance, PowerState
from cowshed.model.share import Share
from cowshed.testing.disks import MemoryBackend
from cowshed.testing.driver.guest import FakeGuest
from cowshed.testing.images import MemoryImages

Kind = TypeVar("Kind", bound=type)

CALLS = tuple(name for kind in (*CAPABILITIES, Shares) for name in vars(kind) if not name.startswith("_"))


@dataclass(frozen=True, slots=True)
class Call:
    """One call of the contract, as it was made."""

    name: str
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


@dataclass
class FakeRooms:
    """What the manager and the command ask the driver's rooms for."""

    config: Config
    uri: str = "fake:///"
    progress: Progress = SILENT
    capabilities: HostCapabilities = field(
        default_factory=lambda: HostCapabilities(session=True, note="nothing runs here: the driver is a fake")
    )


class Table(ComputeDriver):
    """The state of the fake and how its parts reach it."""

    def __init__(self, virtapi: Any = None, *, config: Config | None = None) -> None:
        super().__init__(virtapi)
        self.rooms = FakeRooms(config or Config())
        self.guests: dict[str, FakeGuest] = {}
        self.images = MemoryImages()
        self.backends = {name: MemoryBackend(name) for name in ("qcow2", "raw", "memory")}
        self.expected_shares: dict[str, list[Share]] = {}  # of instances that are not spawned yet
        self.calls: list[Call] = []
        self.enabled = True
        self.placement: Any = None
        self.probes: set[str] = set()
        self.pools: dict[str, dict[str, Any]] = {}
        self._failures: defaultdict[str, list[BaseException]] = defaultdict(list)
        self._lock = threading.RLock()
        self._place: Path | None = None

    # --- for tests ----------------------------------------------------------------------------

    def fail(self, call: str, error: BaseException, *, times: int = 1) -> None:
        """The next ``times`` calls of ``call`` raise ``error`` before they do anything.

        :raises ValueError: the contract has no such call
        """
        if call not in CALLS:
            raise ValueError(f"the contract has no call {call!r}")
        self._failures[call] += [error] * times

    def called(self, name: str) -> list[Call]:
        """The calls of this name so far."""
        return [call for call in self.calls if call.name == name]

    def guest(self, ref: str) -> FakeGuest:
        """By UUID or name. :raises InstanceNotFound:"""
        for guest in self.guests.values():
            if ref in (guest.uuid, guest.name):
                return guest
        raise InstanceNotFound(name=ref)

    def crash(self, ref: str) -> None:
        """Its QEMU ends by itself."""
        self._move(self.guest(ref), PowerState.CRASHED, Transition.STOPPED)

    # --- for the parts ------------------------------------------------------------------------

    def _find(self, instance: Instance) -> FakeGuest:
        try:
            return self.guests[instance.uuid]
        except KeyError:
            raise InstanceNotFound(name=instance.name) from None

    def _running(self, instance: Instance, action: str) -> FakeGuest:
        guest = self._find(instance)
        if not guest.running:
            raise InvalidState(name=guest.name, state=guest.state.name.lower(), action=action)
        return guest

    def _move(self, guest: FakeGuest, state: PowerState, transition: Transition) -> None:
        guest.state = state
        self.emit_event(LifecycleEvent(guest.uuid, transition))

    def _boot(self, guest: FakeGuest) -> None:
        """:raises InvalidState: it was forbidden"""
        if not guest.bootable or guest.soft_deleted:
            raise InvalidState(name=guest.name, state="deleted" if guest.soft_deleted else "locked", action="started")
        guest.saved = False
        guest.boots += 1
        guest.shown = {one.id for one in guest.shares}
        self._print(guest, f"\r\nFake guest, boot {guest.boots}\r\n{guest.name} login: ")
        self._move(guest, PowerState.RUNNING, Transition.STARTED)

    def _backend(self, name: str) -> MemoryBackend:
        name = name or self.rooms.config.disks.backend
        if name not in self.backends:
            raise InvalidRequest(reason=f"there is no disk backend {name!r}", hint=f"known: {', '.join(self.backends)}")
        return self.backends[name]

    # --- console logs, which must be files: readers follow them --------------------------------

    def console_log_path(self, instance: Instance) -> Path:
        return self._directory() / instance.uuid / "console.log"

    def _directory(self) -> Path:
        if self._place is None:
            self._place = Path(tempfile.mkdtemp(prefix="cowshed-fake-"))
            weakref.finalize(self, shutil.rmtree, self._place, ignore_errors=True)
        return self._place

    def _print(self, guest: FakeGuest, text: str) -> None:
        path = self.console_log_path(guest.instance)
        path.parent.mkdir(exist_ok=True)
        with path.open("a", newline="") as file:
            file.write(text)


def recording(kind: Kind) -> Kind:
    """Every call of the contract that ``kind`` fulfils is noted, and fails where a failure is planned."""
    for name in CALLS:
        method = getattr(kind, name)
        if not method.__module__.startswith("cowshed.contract."):
            setattr(kind, name, _recorded(name, method))
    return kind


def _recorded(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def call(self: Table, *args: Any, **kwargs: Any) -> Any:
        with self._lock:
            self.calls.append(Call(name, args, kwargs))
            if self._failures[name]:
                raise self._failures[name].pop(0)
            return method(self, *args, **kwargs)

    return call
