"""Consoles: where a person can look at an instance."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Console:
    """``host`` and ``port`` of a VNC or serial endpoint."""

    host: str
    port: int
    internal_access_path: str | None = None

    def get_connection_info(self, token: str, access_url: str) -> dict[str, object]:
        """The record a console proxy stores for ``token``."""
        return {
            "token": token,
            "access_url": access_url,
            "host": self.host,
            "port": self.port,
            "internal_access_path": self.internal_access_path,
        }


class VncConsole(Console):
    __slots__ = ()


class SerialConsole(Console):
    __slots__ = ()


@dataclass(frozen=True, slots=True)
class SpiceConsole(Console):
    """A SPICE console: its host and its ports, without and with TLS."""

    tls_port: int | None = None

    @property
    def tlsPort(self) -> int | None:  # noqa: N802 - the contract's name
        return self.tls_port
