"""NBD volumes, through QEMU's own client: over TCP, or a unix socket of this host."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cowshed.contract.connecting import ConnectionInfo, Connector
from cowshed.errors import InvalidRequest
from cowshed.model.disk import DiskFormat, DiskSource, DiskType, NetworkHost
from cowshed.tools import qemu_source
from cowshed.volumes import info as infos


class Nbd(Connector):
    """``data``: ``export`` ("" is the server's default one), and ``host`` with ``port``, or ``socket``."""

    def check(self, info: ConnectionInfo) -> None:
        _source(info)

    def connect(self, info: ConnectionInfo) -> DiskSource:
        source = _source(info)
        qemu_source.size(source)
        return source

    def disconnect(self, info: ConnectionInfo) -> None:
        """The connection is QEMU's and ends with it."""

    def size(self, info: ConnectionInfo) -> int:
        return qemu_source.size(_source(info))

    def look(self, info: ConnectionInfo) -> int | None:
        return self.size(info)


def _source(info: ConnectionInfo) -> DiskSource:
    data = infos.data(info)
    export = data.get("export") or data.get("name") or ""
    return DiskSource(DiskType.NETWORK, DiskFormat.RAW, protocol="nbd", name=export, hosts=(_host(data),))


def _host(data: Any) -> NetworkHost:
    host, socket = data.get("host"), data.get("socket")
    if bool(host) == bool(socket):
        raise InvalidRequest(reason="an NBD volume needs a host or a socket, and not both")
    if socket:
        if not Path(socket).is_absolute():
            raise InvalidRequest(reason=f"the socket {socket} is not an absolute path")
        return NetworkHost(socket=Path(socket))
    return NetworkHost(str(host), port(data.get("port"), qemu_source.PORTS["nbd"]))


def port(value: Any, default: int) -> int:
    """:raises InvalidRequest: not a port"""
    if value in (None, ""):
        return default
    number = int(value) if str(value).isdigit() else 0
    if not 0 < number < 1 << 16:
        raise InvalidRequest(reason=f"{value!r} is not a port")
    return number
