"""Which of libvirt's events are asked for, and what each becomes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cowshed import log
from cowshed.hypervisor import events
from cowshed.hypervisor.binding import libvirt
from cowshed.hypervisor.events import EventKind, GuestEvent, Hub
from cowshed.model.event import Transition

_log = log.logger(__name__)
Build = Callable[..., GuestEvent | None]

_AGENT_STATES: Final = {1: "connected", 2: "disconnected"}
_IO_ACTIONS: Final = ("none", "pause", "report")


def _lifecycle(uuid: str, event: int, detail: int) -> GuestEvent:
    return events.lifecycle(uuid, event, detail)


def _reboot(uuid: str) -> GuestEvent:
    return GuestEvent(uuid, EventKind.REBOOT, Transition.REBOOTED, "by the guest")


def _agent(uuid: str, state: int, reason: int) -> GuestEvent:
    word = _AGENT_STATES.get(state, str(state))
    return GuestEvent(uuid, EventKind.AGENT, None, word, {"state": word, "reason": reason})


def _io_error(uuid: str, path: str, alias: str, action: int, reason: str) -> GuestEvent:
    word = _IO_ACTIONS[action] if 0 <= action < len(_IO_ACTIONS) else str(action)
    data = {"path": path, "alias": alias, "action": word, "reason": reason}
    return GuestEvent(uuid, EventKind.IO_ERROR, Transition.IO_ERROR, reason or "I/O error", data)


def _device(kind: EventKind) -> Build:
    return lambda uuid, alias: GuestEvent(uuid, kind, None, alias, {"alias": alias})


def _block_job(uuid: str, disk: str, type: int, status: int) -> GuestEvent:
    return GuestEvent(uuid, EventKind.BLOCK_JOB, None, disk, {"disk": disk, "type": type, "status": status})


def _job(uuid: str, parameters: dict[str, Any]) -> GuestEvent:
    return GuestEvent(uuid, EventKind.JOB_COMPLETED, None, "", dict(parameters))


_KINDS: Final[dict[str, Build]] = {
    "LIFECYCLE": _lifecycle,
    "REBOOT": _reboot,
    "AGENT_LIFECYCLE": _agent,
    "IO_ERROR_REASON": _io_error,
    "DEVICE_ADDED": _device(EventKind.DEVICE_ADDED),
    "DEVICE_REMOVED": _device(EventKind.DEVICE_REMOVED),
    "DEVICE_REMOVAL_FAILED": _device(EventKind.DEVICE_REMOVAL_FAILED),
    "BLOCK_JOB_2": _block_job,
    "JOB_COMPLETED": _job,
}


def subscribe(connection: Any, hub: Hub) -> list[int]:
    """Ask ``connection`` for every kind that its driver knows; the numbers end them again.

    :raises libvirtError: not even lifecycle events are told
    """
    module = libvirt()
    numbers = []
    for name, build in _KINDS.items():
        number = getattr(module, f"VIR_DOMAIN_EVENT_ID_{name}")
        try:
            numbers.append(connection.domainEventRegisterAny(None, number, _teller(hub, build), None))
        except module.libvirtError as error:
            if name == "LIFECYCLE":
                raise
            _log.debug("no %s events here: %s", name, error)
    return numbers


def _teller(hub: Hub, build: Build) -> Callable[..., None]:
    def tell(connection: Any, domain: Any, *values: Any) -> None:
        arguments = values[:-1]  # the last one is the opaque value of the registration
        try:
            event = build(domain.UUIDString(), *arguments)
        except Exception:  # noqa: BLE001 - libvirt's event thread must go on
            _log.exception("an event could not be read")
            return
        if event is not None:
            hub.put(event)

    return tell
