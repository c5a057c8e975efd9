"""Opening a connection: with a deadline, and with a sentence about what to do when it fails."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, Final
from urllib.parse import urlsplit

from cowshed import log
from cowshed.errors import CowshedError, HypervisorUnavailable, PermissionDenied
from cowshed.hypervisor import session
from cowshed.hypervisor.binding import libvirt

_log = log.logger(__name__)

_NO_SOCKET: Final = "-sock': No such file"
_NO_SESSION: Final = "its daemon did not start; libvirtd --timeout 10 says why"
_NO_PLACE: Final = (
    "its daemon needs a directory of yours for its sockets: set XDG_RUNTIME_DIR or HOME to one you may write to"
)
_GROUP: Final = "add yourself to the group libvirt and log in again, or use qemu:///session"
# (words of libvirt, what to do)
_HINTS: Final = (
    ("binary", session.INSTALL),
    ("no connection driver", session.INSTALL),
    (_NO_SOCKET, "start libvirt: systemctl start libvirtd; or use the URI qemu:///session"),
    ("No such file or directory", "is libvirt's daemon running? cowshed doctor tells what is missing"),
    ("Connection refused", "libvirt's daemon has ended and left its socket; start it again"),
    ("unexpected QEMU URI path", "root uses qemu:///system, others qemu:///session"),
    ("authentication", _GROUP),
)


def connect(uri: str, *, hide_kvm: session.Wish, timeout: float) -> Any:
    """An open virConnect.

    :raises HypervisorUnavailable: :raises PermissionDenied:
    """
    address = session.prepare(uri, hide_kvm=hide_kvm)
    outcome: list[Any] = []

    def dial() -> None:
        try:
            outcome.append(libvirt().open(address))
        except BaseException as error:  # noqa: BLE001 - handed to the caller's thread
            outcome.append(error)

    # libvirt's own call has no time limit: a daemon that is stopped would hold us for ever.
    thread = threading.Thread(target=dial, name="cowshed-libvirt-connect", daemon=True)
    thread.start()
    thread.join(timeout)
    if not outcome:
        raise HypervisorUnavailable(
            uri=uri,
            reason=f"it did not answer within {timeout:g} s",
            hint="its daemon hangs or is busy asking QEMU what it can do; cowshed doctor looks at both",
        )
    if isinstance(outcome[0], BaseException):
        raise explain(outcome[0], uri) from outcome[0]
    return outcome[0]


def explain(error: BaseException, uri: str) -> BaseException:
    """Why libvirt could not be reached, and what to do."""
    if isinstance(error, CowshedError) or not isinstance(error, libvirt().libvirtError):
        return error
    told: Any = error
    text = (told.get_error_message() or str(error)).strip().rstrip(".")
    server = urlsplit(uri).hostname
    elsewhere = f"does libvirt run on {server}, and does it let you in?" if server else ""
    if "Permission denied" in text:
        ours = session.is_session(uri) and "socket=" not in uri  # else somebody has said whose it is
        hint = elsewhere or (_NO_PLACE if ours else _GROUP)
        return PermissionDenied(action="use libvirt at", path=f"{uri} ({text})", hint=hint)
    if _NO_SOCKET in text and not server:
        try:
            session.daemon(uri)
        except HypervisorUnavailable as missing:
            return missing
        if session.is_session(uri):
            return HypervisorUnavailable(uri=uri, reason=text, hint=_NO_SESSION)
    hint = elsewhere or next((what for words, what in _HINTS if words in text), "cowshed doctor tells what is missing")
    return HypervisorUnavailable(uri=uri, reason=text, hint=hint)


def keep_alive(connection: Any, interval: int, count: int) -> None:
    """Notice a daemon that hangs. Drivers inside this process (test, embed) have no need of it."""
    module = libvirt()
    try:
        connection.setKeepAlive(interval, count)
    except module.libvirtError as error:
        _log.debug("no keep-alive here: %s", error)


def on_close(connection: Any, call: Callable[[], None]) -> None:
    """Have ``call`` made, on the event thread, when the other side ends the connection."""

    def closed(connection: Any, reason: int, opaque: object) -> None:
        call()

    try:
        connection.registerCloseCallback(closed, None)
    except libvirt().libvirtError as error:
        _log.debug("no close callback here: %s", error)


def hang_up(connection: Any, callbacks: list[int] | None) -> None:
    """End ``connection``; on one that broke nothing of this works, and nothing needs to."""
    module = libvirt()
    for call in _goodbyes(connection, callbacks):
        try:
            call()
        except (module.libvirtError, AttributeError) as error:
            _log.debug("while hanging up: %s", error)


def _goodbyes(connection: Any, callbacks: list[int] | None) -> list[Callable[[], Any]]:
    calls: list[Callable[[], Any]] = []
    if callbacks is not None:
        calls = [partial(connection.domainEventDeregisterAny, number) for number in callbacks]
        calls.append(connection.unregisterCloseCallback)
    return [*calls, connection.close]
