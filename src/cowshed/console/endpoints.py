"""Where a running instance's VNC, SPICE and serial consoles listen, read from its live domain."""

from __future__ import annotations

from typing import Final
from xml.etree import ElementTree as ET

from cowshed.errors import InvalidState, UnsupportedOperation
from cowshed.hypervisor.guest import OFF, Guest
from cowshed.model.console import SerialConsole, SpiceConsole, VncConsole

_LOOPBACK: Final = "127.0.0.1"


def vnc(guest: Guest) -> VncConsole:
    """:raises InvalidState: it does not run :raises UnsupportedOperation: it has no VNC console"""
    graphics = _graphics(guest, "vnc")
    host, port = _address(graphics), _port(graphics.get("port"))
    if port is None:
        raise _none(guest, "VNC", "it listens on no TCP port")
    return VncConsole(host, port)


def spice(guest: Guest) -> SpiceConsole:
    """:raises InvalidState: it does not run :raises UnsupportedOperation: it has no SPICE console"""
    graphics = _graphics(guest, "spice")
    port, tls = _port(graphics.get("port")), _port(graphics.get("tlsPort"))
    if port is None and tls is None:
        raise _none(guest, "SPICE", "it listens on no TCP port")
    return SpiceConsole(_address(graphics), port or 0, None, tls)


def serial(guest: Guest) -> SerialConsole:
    """The first serial port that listens on TCP.

    :raises InvalidState: it does not run
    :raises UnsupportedOperation: none of its serial ports does; ``attach`` works without
    """
    for device in _live(guest).findall("devices/serial[@type='tcp']"):
        source = device.find("source[@mode='bind']")
        if source is not None and (port := _port(source.get("service"))) is not None:
            return SerialConsole(_reachable(source.get("host") or ""), port)
    raise _none(guest, "serial TCP", "none is configured")


def _live(guest: Guest) -> ET.Element:
    state = guest.state()
    if state in OFF:
        raise InvalidState(name=guest.name, state="not running", action="viewed")
    return ET.fromstring(guest.xml())  # noqa: S314 - libvirt's own words


def _graphics(guest: Guest, kind: str) -> ET.Element:
    found = _live(guest).find(f"devices/graphics[@type='{kind}']")
    if found is None:
        hint = f"[console] {kind} gives it one at its next start: cowshed restart {guest.name}"
        raise _none(guest, kind.upper(), "it was started without", hint)
    return found


def _address(graphics: ET.Element) -> str:
    listen = graphics.find("listen")
    told = listen.get("address") if listen is not None else None
    return _reachable(told or graphics.get("listen") or "")


def _reachable(address: str) -> str:
    """An address to connect to: a console that listens everywhere is reached on this host."""
    if address in ("", "0.0.0.0"):  # noqa: S104 - compared, not bound
        return _LOOPBACK
    return "::1" if address == "::" else address


def _port(text: str | None) -> int | None:
    """A port number; libvirt writes -1 where there is none yet."""
    if text is None or not text.isdecimal():
        return None
    return int(text) or None


def _none(guest: Guest, kind: str, reason: str, hint: str | None = None) -> UnsupportedOperation:
    return UnsupportedOperation(subject=guest.name, operation=f"show a {kind} console", reason=reason, hint=hint)
