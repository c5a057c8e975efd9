"""Devices that come and go while a guest runs. A guest may take its time to let go, or refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeVar

from cowshed import clock, log
from cowshed.clock import Deadline
from cowshed.errors import CowshedError, DeadlineExceeded, InstanceNotFound, InvalidState
from cowshed.hypervisor.events import EventKind, Watch
from cowshed.model.instance import PowerState

if TYPE_CHECKING:
    from cowshed.hypervisor.guest import Guest

_log = log.logger(__name__)

LIVE: Final = 1  # VIR_DOMAIN_AFFECT_LIVE
CONFIG: Final = 2  # VIR_DOMAIN_AFFECT_CONFIG
SAFETY_NET: Final = 2.0  # seconds after which the domain is read again although no event has come
_GOING: Final = ("in the process of unplug", "guest is busy")  # QEMU's words for a second request while it waits
_FIRST: Final = 2.0  # seconds until the second request: a guest that boots drops the first
_REST: Final = 0.5  # seconds between a refusal and the next request
T = TypeVar("T")


class Device(Protocol):
    """An element of the domain that can be attached and detached."""

    @property
    def alias(self) -> str | None: ...

    def to_xml(self) -> str: ...


Find = Callable[[str], Device | None]
"""The device in the XML of a domain, None when it is not there."""


class _Outcome(Enum):
    GONE = "gone"
    REFUSED = "the guest refuses to let go of it"
    SILENT = "the guest has not let go of it yet"


class Devices:
    """The devices of one guest."""

    def __init__(self, guest: Guest) -> None:
        self._guest = guest

    def attach(self, xml: str) -> None:
        """A device to the running guest and to its definition: to both, or what there is of them.

        :raises NameTaken: something is there already :raises UnsupportedOperation: there is no room
        """
        self._guest.call("attach a device to", lambda domain: domain.attachDeviceFlags(xml, _affected(domain)))

    def update(self, xml: str) -> None:
        """Change a device of the running guest, until its next start: ``xml`` is all of it.

        :raises UnsupportedOperation: something that cannot be changed while it runs
        """
        self._guest.call("change a device of", lambda domain: domain.updateDeviceFlags(xml, LIVE))

    def redefine(self, xml: str) -> None:
        """Change a device in the definition, for later starts: ``xml`` is all of it."""
        self._guest.call("define a device of", lambda domain: domain.updateDeviceFlags(xml, CONFIG))

    def detach(self, find: Find, *, timeout: float, attempts: int, what: str) -> bool:
        """Take a device from the running guest, then from its definition; was it in either?

        :param timeout: seconds the guest has for each of ``attempts``; in the first of them it is asked again after
            2 seconds, 4, and so on. One that is paused has only the first.
        :param what: names the device, for people
        :raises DeadlineExceeded: the guest did not let go of it; it stays in both
        """
        live = self._detach_live(find, timeout, attempts, what)
        defined = self._detach_defined(find)
        return live or defined

    def _detach_defined(self, find: Find) -> bool:
        if not self._patiently(self._guest.persistent):
            return False
        device = find(self._patiently(lambda: self._guest.xml(inactive=True)))
        if device is None:
            return False
        xml = device.to_xml()
        self._guest.call("detach a device from", lambda domain: domain.detachDeviceFlags(xml, CONFIG))
        return True

    def _detach_live(self, find: Find, timeout: float, attempts: int, what: str) -> bool:
        device = self._live(find)
        if device is None:
            return False
        began = clock.current().monotonic()
        with self._guest.watch() as watch:
            for number, (patience, last) in enumerate(_patience(timeout, attempts), start=1):
                device = self._live(find)
                if device is None:
                    return True
                self._request(device)
                outcome = self._wait(watch, device.alias or "", find, patience)
                if outcome == _Outcome.GONE:
                    return True
                (_log.warning if last else _log.info)("%s: %s (request %d)", what, outcome.value, number)
                if last and self._patiently(self._guest.state) == PowerState.PAUSED:
                    hint = f"it is paused and cannot answer; cowshed resume {self._guest.name}, then try again"
                    break
            else:
                hint = "is it in use in the guest (mounted, in a volume group)? is the guest still booting?"
        spent = round(clock.current().monotonic() - began, 1)
        raise DeadlineExceeded(what=f"{self._guest.name} letting go of {what}", seconds=spent, hint=hint)

    def _live(self, find: Find) -> Device | None:
        """None when it is not there, or when nothing runs."""
        return self._patiently(lambda: find(self._guest.xml()) if self._active() else None)

    def _active(self) -> bool:
        return self._guest.call("describe", lambda domain: bool(domain.isActive()), repeat=True)

    def _request(self, device: Device) -> None:
        """Returns at once: the guest is asked, and answers by an event."""
        try:
            self._guest.call(
                "detach a device from", lambda domain: domain.detachDeviceAlias(device.alias, LIVE), repeat=True
            )
        except InvalidState as error:
            _log.debug("it stopped meanwhile: %s", error)
        except InstanceNotFound:
            raise
        except CowshedError as error:
            # Asked already, or gone between two looks: the wait that follows finds out.
            said = str(error).lower()
            if not any(words in said for words in (*_GOING, "not found")):
                raise

    def _wait(self, watch: Watch, alias: str, find: Find, timeout: float) -> _Outcome:
        """An event tells at once; reading the domain is for when libvirt was away."""
        deadline = Deadline(timeout, "")
        ours = (EventKind.DEVICE_REMOVED, EventKind.DEVICE_REMOVAL_FAILED)
        while True:
            left = deadline.remaining() or 0.0
            try:
                event = watch.wait(
                    lambda event: (
                        (event.kind in ours and event.data["alias"] == alias) or event.kind == EventKind.LIFECYCLE
                    ),
                    timeout=min(SAFETY_NET, left),
                    what="",
                )
            except DeadlineExceeded:
                event = None
            if event is not None and event.kind == EventKind.DEVICE_REMOVAL_FAILED:
                clock.current().sleep(min(_REST, left))
                return _Outcome.REFUSED
            if self._live(find) is None:
                return _Outcome.GONE
            if deadline.passed:
                return _Outcome.SILENT

    def _patiently(self, read: Callable[[], T]) -> T:
        return self._guest.patiently(read, Deadline(30, "libvirt answering"))


def _patience(timeout: float, attempts: int) -> Iterator[tuple[float, bool]]:
    """Seconds to wait after each request, and whether an attempt ends with it; together ``timeout * attempts``."""
    left, step = timeout, _FIRST
    while left > step:
        yield step, False
        left, step = left - step, step * 2
    yield left, True
    for _ in range(1, attempts):
        yield timeout, True


def _affected(domain: Any) -> int:
    return (LIVE if domain.isActive() else 0) | (CONFIG if domain.isPersistent() else 0)
