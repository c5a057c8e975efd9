"""Serial ports. The first one is logged to a file and can be joined at the same time.

Tried with libvirt 9.0 in session mode: ``pty`` with ``<log>`` gives both, the log and ``virsh
console``. libvirt starts virtlogd by itself for it (as the same user) and hands QEMU a pipe to it.
``unix`` and ``tcp`` are logged as well, but libvirt's console call refuses them ("not using a PTY").
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from cowshed.domain.element import Element, child, switch, value


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
    TAG: ClassVar[str] = "serial"

    type: str | None = value("@type")
    source: SerialSource | None = child()
    protocol: str | None = value("protocol/@type")
    log: Path | None = value("log/@file")
    log_append: bool | None = switch("log/@append")
    port: int | None = value("target/@port")
    alias: str | None = value("alias/@name")


def serials(log: Path, *, count: int, listen: str, ports: Sequence[int]) -> Iterator[Serial]:
    """``count`` serial ports: the first ``len(ports)`` on TCP, the rest on ptys."""
    for number in range(max(count, len(ports))):
        logged, append = (log, True) if number == 0 else (None, None)
        if number < len(ports):
            source = SerialSource(mode="bind", host=listen, service=ports[number])
            yield Serial(type="tcp", source=source, protocol="raw", log=logged, log_append=append, port=number)
        else:
            yield Serial(type="pty", log=logged, log_append=append, port=number)
