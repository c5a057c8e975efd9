"""What libvirt says in words only: QEMU's complaints and the system's all arrive under one general number.

Each pattern was seen with libvirt 9.0 and QEMU 7.2. Words that are not known here do no harm: the
error is a HypervisorError that repeats them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Final

from cowshed.errors import (
    Busy,
    CowshedError,
    DiskNotFound,
    HostUnsuitable,
    NameTaken,
    NetworkNotFound,
    NoSpace,
    PermissionDenied,
    PortInUse,
    ToolMissing,
    UnsupportedOperation,
)

Make = Callable[[re.Match[str], str, str], CowshedError]
"""(match, subject, all words) to an error."""

_PREFIX: Final = re.compile(
    r"^(internal error: )?"
    r"((process exited while connecting to monitor|qemu unexpectedly closed the monitor): )?"
    r"(\d{4}-\d\d-\d\dT[\d:.]+Z )?(qemu-system-\w+: )?"
)
_LISTEN: Final = "stop what uses the port, or choose another one"
_BRIDGE: Final = "QEMU's bridge helper must be allowed the bridge in /etc/qemu/bridge.conf, or use libvirt as root"

_TABLE: Final[tuple[tuple[str, Make], ...]] = (
    # QEMU writes VNC displays, not ports: 127.0.0.1:99 is port 5999.
    (
        r"-vnc (?P<address>\S*):(?P<display>\d+).*Address already in use",
        lambda m, subject, text: _port(int(m["display"]) + 5900, m["address"]),
    ),
    (
        r"forwarding rule '\w+:(?P<address>[^:']*):(?P<port>\d+)-",
        lambda m, subject, text: _port(int(m["port"]), m["address"]),
    ),
    (
        r"host=(?P<address>[^,]*),port=(?P<port>\d+).*Address already in use",
        lambda m, subject, text: _port(int(m["port"]), m["address"]),
    ),
    (r"Address already in use", lambda m, subject, text: PortInUse(port="?", address="this host", hint=text)),
    (
        r"No space left on device",
        lambda m, subject, text: NoSpace(place=f"the host of {subject}", needed="more", free="too few", hint=text),
    ),
    (
        r"domain '(?P<name>[^']*)' already exists with uuid",
        lambda m, subject, text: NameTaken(kind="domain", name=m["name"], hint=text),
    ),
    (
        r"no network with matching name '(?P<name>[^']*)'",
        lambda m, subject, text: NetworkNotFound(name=m["name"], hint="virsh net-list --all shows those there are"),
    ),
    (
        r"Cannot get interface MTU on '(?P<name>[^']*)': No such device",
        lambda m, subject, text: NetworkNotFound(name=m["name"], hint="there is no such bridge on this host"),
    ),
    (
        r"bridge-helper --br=(?P<name>\S+)",
        lambda m, subject, text: PermissionDenied(action="use the bridge", path=m["name"], hint=_BRIDGE),
    ),
    (
        r"Cannot access storage file '(?P<path>[^']*)'.*No such file",
        lambda m, subject, text: DiskNotFound(name=m["path"]),
    ),
    (
        r"(?:Cannot access storage file|Could not open|[Uu]nable to open file:?) '?(?P<path>/[^':]*)'?.*Permission denied",
        lambda m, subject, text: PermissionDenied(action="open", path=m["path"]),
    ),
    (
        r"Cannot allocate memory",
        lambda m, subject, text: HostUnsuitable(reason=f"there is not enough memory for {subject}", hint=text),
    ),
    (
        r"(?:Cannot check QEMU binary|unable to find any emulator|Cannot find suitable emulator) ?(?P<path>/\S*[^:\s])?",
        lambda m, subject, text: ToolMissing(
            tool=m["path"] or "qemu-system", hint="install QEMU's system emulator (Debian: qemu-system-x86)"
        ),
    ),
    (
        r"[Nn]o more available PCI (slots|addresses)|No more free ports|unable to find any free address",
        lambda m, subject, text: UnsupportedOperation(
            subject=subject,
            operation="take another device while it runs",
            reason="its slots for devices that come later are all in use",
            hint="stop it first, or detach another; on bus scsi there is room only where a SCSI controller is there already",
        ),
    ),
    (
        r"target '?(?P<name>\w+)'? (?:already exists|duplicated)",
        lambda m, subject, text: NameTaken(kind="disk", name=m["name"]),
    ),
    (
        r"Active console session exists",
        lambda m, subject, text: Busy(what=f"the console of {subject}", holder="another session"),
    ),
)
_PATTERNS: Final = tuple((re.compile(pattern), make) for pattern, make in _TABLE)


def clean(text: str) -> str:
    """One line, without what libvirt and QEMU put before the point."""
    return _PREFIX.sub("", " ".join(text.split()), count=1).rstrip(". ")


def meaning(text: str, subject: str) -> CowshedError | None:
    """The error that ``text`` describes, if it is a known one."""
    for pattern, make in _PATTERNS:
        if found := pattern.search(text):
            return make(found, subject, text)
    return None


def _port(port: int, address: str) -> CowshedError:
    return PortInUse(port=port, address=address or "this host", hint=_LISTEN)
