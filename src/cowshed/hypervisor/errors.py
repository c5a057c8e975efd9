"""libvirt's error numbers become cowshed's errors: one table.

The numbers are part of libvirt's stable interface (virErrorNumber and virErrorDomain in
libvirt/virterror.h), so reading the table needs no binding.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from types import TracebackType
from typing import Any, Final

from cowshed.errors import (
    Busy,
    CowshedError,
    HypervisorError,
    HypervisorUnavailable,
    InstanceNotFound,
    InvalidRequest,
    InvalidState,
    NameTaken,
    NetworkNotFound,
    NotFound,
    PermissionDenied,
    UnsupportedOperation,
)


class Number(IntEnum):
    """The virErrorNumber values that mean something to us."""

    INTERNAL_ERROR = 1
    NO_SUPPORT = 3
    NO_CONNECT = 5
    INVALID_CONN = 6
    INVALID_ARG = 8
    OPERATION_FAILED = 9
    DOM_EXIST = 28
    OPERATION_DENIED = 29
    SYSTEM_ERROR = 38
    RPC = 39
    NO_DOMAIN = 42
    NO_NETWORK = 43
    AUTH_FAILED = 45
    OPERATION_INVALID = 55
    INVALID_SECRET = 65
    NO_SECRET = 66
    CONFIG_UNSUPPORTED = 67
    OPERATION_TIMEOUT = 68
    ARGUMENT_UNSUPPORTED = 74
    AUTH_CANCELLED = 79
    NO_DOMAIN_METADATA = 80
    OPERATION_UNSUPPORTED = 84
    AGENT_UNRESPONSIVE = 86
    RESOURCE_BUSY = 87
    ACCESS_DENIED = 88
    AUTH_UNAVAILABLE = 94
    AGENT_UNSYNCED = 97


FROM_RPC: Final = 7
FROM_REMOTE: Final = 13

_LOST: Final = frozenset(
    {Number.INVALID_CONN, Number.NO_CONNECT, Number.RPC, Number.INTERNAL_ERROR, Number.SYSTEM_ERROR}
)


class Failure:
    """One libvirtError, as plain values. ``subject`` names the instance (or network), for people."""

    def __init__(self, error: Any, *, uri: str, action: str, subject: str) -> None:
        self.uri = uri
        self.action = action
        self.subject = subject
        self.number: int = error.get_error_code() or 0
        self.domain: int = error.get_error_domain() or 0
        self.errno: int = (error.get_int1() or 0) if self.number == Number.SYSTEM_ERROR else 0
        from cowshed.hypervisor import words  # many patterns, needed only when something went wrong

        self.message: str = words.clean(error.get_error_message() or str(error))

    @property
    def connection_lost(self) -> bool:
        """The way to the daemon broke; whether it did what it was asked is unknown."""
        if self.number in (Number.INVALID_CONN, Number.NO_CONNECT):
            return True
        return self.domain in (FROM_RPC, FROM_REMOTE) and self.number in _LOST


def _unavailable(f: Failure) -> CowshedError:
    hint = f"its daemon ended or hangs; whether it could {f.action} is not known: look first, then try again"
    return HypervisorUnavailable(uri=f.uri, reason=f.message, hint=hint)


# How the actions of guest.py read in "it cannot be ...".
_PARTICIPLES: Final = {
    "start": "started",
    "shut down": "shut down",
    "reboot": "rebooted",
    "stop": "stopped",
    "pause": "paused",
    "resume": "resumed",
    "save": "saved",
    "undefine": "undefined",
    "send an NMI to": "sent an NMI",
    "open the console of": "joined on its console",
}


def _invalid_state(f: Failure) -> CowshedError:
    """libvirt says "Requested operation is not valid: domain is not running"."""
    found = re.search(r"domain is ((?:not|already) \w+|\w+)", f.message)
    state = found[1] if found else "in a state that forbids it"
    return InvalidState(
        name=f.subject, state=state, action=_PARTICIPLES.get(f.action, "asked for that"), hint=f.message
    )


def _denied(f: Failure) -> CowshedError:
    return PermissionDenied(action=f.action, path=f"{f.subject or f.uri} ({f.message})")


def _unsupported(f: Failure) -> CowshedError:
    if f.action.endswith(" in"):  # what libvirt does inside a guest
        return UnsupportedOperation(subject="libvirt", operation=f"{f.action} {f.subject}", reason=f.message)
    return UnsupportedOperation(subject=f.subject or "libvirt", operation=f.action, reason=f.message)


def _silent(f: Failure) -> CowshedError:
    error = _unsupported(f)
    error.hint = "is qemu-guest-agent installed there, and has the guest booted?"
    return error


TABLE: Final[dict[int, Callable[[Failure], CowshedError]]] = {
    Number.NO_DOMAIN: lambda f: InstanceNotFound(name=f.subject),
    Number.NO_NETWORK: lambda f: NetworkNotFound(name=f.subject),
    Number.NO_SECRET: lambda f: NotFound(kind="secret", name=f.subject),
    Number.DOM_EXIST: lambda f: NameTaken(kind="domain", name=f.subject),
    Number.OPERATION_INVALID: _invalid_state,
    Number.INVALID_SECRET: _denied,
    Number.OPERATION_DENIED: _denied,
    Number.ACCESS_DENIED: _denied,
    Number.AUTH_FAILED: _denied,
    Number.AUTH_CANCELLED: _denied,
    Number.AUTH_UNAVAILABLE: _denied,
    Number.NO_SUPPORT: _unsupported,
    Number.CONFIG_UNSUPPORTED: _unsupported,
    Number.ARGUMENT_UNSUPPORTED: _unsupported,
    Number.OPERATION_UNSUPPORTED: _unsupported,
    Number.AGENT_UNRESPONSIVE: _silent,
    Number.AGENT_UNSYNCED: _silent,
    Number.RESOURCE_BUSY: lambda f: Busy(what=f.subject or f.uri, holder=f"another operation ({f.message})"),
    Number.OPERATION_TIMEOUT: lambda f: Busy(what=f.subject or f.uri, holder=f"another operation ({f.message})"),
    Number.INVALID_ARG: lambda f: InvalidRequest(reason=f"{f.action}: {f.message}"),
    Number.NO_CONNECT: _unavailable,
    Number.INVALID_CONN: _unavailable,
}
"""What an error number means. Everything else is a HypervisorError with libvirt's words."""


def translate(error: Any, *, uri: str, action: str, subject: str = "") -> CowshedError:
    """The error of cowshed that says what ``error`` (a libvirtError) says.

    :param action: completes "libvirt refused to ..."
    """
    from cowshed.hypervisor import words

    failure = Failure(error, uri=uri, action=action, subject=subject)
    known = _unavailable(failure) if failure.connection_lost else words.meaning(failure.message, subject or uri)
    if known is None and (make := TABLE.get(failure.number)):
        known = make(failure)
    known = known or HypervisorError(
        action=f"{action} {subject}".strip(), reason=failure.message, number=failure.number
    )
    known.fields.setdefault("number", failure.number)
    return known


class Translated:
    """The block's libvirt errors leave it as cowshed's: used around every call.

    ``lost`` is told when the connection broke.
    """

    __slots__ = ("action", "lost", "subject", "uri")

    def __init__(self, action: str, *, uri: str, subject: str = "", lost: Callable[[], None] | None = None) -> None:
        self.action = action
        self.uri = uri
        self.subject = subject
        self.lost = lost

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or not hasattr(error, "get_error_code"):
            return
        told = translate(error, uri=self.uri, action=self.action, subject=self.subject)
        if isinstance(told, HypervisorUnavailable) and self.lost:
            self.lost()
        raise told from error
