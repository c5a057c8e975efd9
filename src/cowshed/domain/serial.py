"""Serial ports. The first one is logged to a file and can be joined at the same time.

Tried with libvirt 9.0 in session mode: ``pty`` with ``<log>`` gives both, the log and ``virsh
console``. libvirt starts virtlogd by itself for it (as the same user) and hands QEMU a pipe to it.
``unix`` and ``tcp`` are logged as well, but libvirt's console call refuses them ("not using a PTY").
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from cowshed.domain.consoles import ConsolePlan
from cowshed.domain.element import Element, child, switch, value
from cowshed.domain.properties import Properties

PORTS: Final = 4  # what a PC has


@dataclass(frozen=True, slots=True, kw_only=True)
class SerialSource(Element):
    """``path`` of a pty is known when the guest runs."""

    TAG: ClassVar[str] = "source"

    mode: str | None = value("@mode")
    host: str | None = value("@host")
    service: int | None = value("@service")
    path: Path | None = value("@path")


@dataclass(frozen=True, slots=True, kw_only=True)
class Serial(Element):
    """``<serial>``: a serial port."""

    TAG: ClassVar[str] = "serial"

    type: str | None = value("@type")
    source: SerialSource | None = child()
    protocol: str | None = value("protocol/@type")
    log: Path | None = value("log/@file")
    log_append: bool | None = switch("log/@append")
    port: int | None = value("target/@port")
    alias: str | None = value("alias/@name")


def serials(properties: Properties, consoles: ConsolePlan) -> tuple[Serial, ...]:
    """As many as the image asks for, at least one: first those on TCP, then those on ptys.

    :raises InvalidRequest: more than a PC has
    """
    asked = properties.number("hw_serial_port_count", most=PORTS)
    count = max(1, asked or 1, len(consoles.serial_ports))
    return tuple(_serial(number, consoles) for number in range(count))


def _serial(number: int, consoles: ConsolePlan) -> Serial:
    log, append = (consoles.log, True) if number == 0 else (None, None)
    if number >= len(consoles.serial_ports):
        return Serial(type="pty", log=log, log_append=append, port=number)
    source = SerialSource(mode="bind", host=consoles.listen, service=consoles.serial_ports[number])
    return Serial(type="tcp", source=source, protocol="raw", log=log, log_append=append, port=number)
