"""Free TCP ports for consoles and forwards: chosen once, recorded, so that two instances never share one."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from cowshed.errors import InvalidRequest, PermissionDenied, PortInUse
from cowshed.tools import filesystem, locks

LOCK: Final = 30.0  # seconds to wait for it; it is held for milliseconds


def free(port: int, address: str = "127.0.0.1") -> bool:
    """Could somebody listen on ``port`` now? (It may be taken a moment later.)

    :raises InvalidRequest: this host has no such address
    :raises PermissionDenied: ports below 1024 are not for this user
    """
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        # QEMU sets this too: a port that only waits out its last connection counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
            probe.listen(1)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                return False
            if error.errno in (errno.EACCES, errno.EPERM):
                raise PermissionDenied(action="listen on port", path=f"{port} of {address}") from error
            raise InvalidRequest(reason=f"nothing can listen on {address}: {error.strerror}") from error
        except OverflowError as error:
            raise InvalidRequest(reason=f"{port} is not a port (1 to 65535)") from error
    return True


def check(port: int, address: str = "127.0.0.1") -> None:
    """:raises PortInUse: somebody listens there"""
    if not free(port, address):
        raise PortInUse(port=port, address=address, hint="choose another port, or stop what uses it")


class Ports:
    """Ports of one range on one address, and who has them: a record in a file, under a lock.

    An owner that is stopped keeps its port, so that its address does not change when it starts.
    """

    def __init__(self, record: Path, *, first: int = 10000, last: int = 20000, address: str = "127.0.0.1") -> None:
        if not 0 < first <= last <= 65535:
            raise InvalidRequest(reason=f"{first}-{last} is not a range of ports")
        self._record = record
        self._range = range(first, last + 1)
        self._address = address

    def take(self, owner: str) -> int:
        """The port of ``owner``: the one it has, else the lowest free one, recorded durably.

        :raises PortInUse: the whole range is taken
        """
        with self._locked() as taken:
            for port, other in taken.items():
                if other == owner:
                    return port
            for port in self._range:
                if port not in taken and free(port, self._address):
                    taken[port] = owner
                    return port
        raise PortInUse(
            port=f"{self._range.start}-{self._range.stop - 1}",
            address=self._address,
            hint="all of them are taken; choose a larger range",
        )

    def give_back(self, owner: str) -> None:
        """Forget all ports of ``owner``; none is success."""
        with self._locked() as taken:
            for port in [port for port, other in taken.items() if other == owner]:
                del taken[port]

    def keep(self, owners: Iterable[str]) -> None:
        """Forget the ports of everybody else: the record follows what really exists."""
        known = set(owners)
        with self._locked() as taken:
            for port in [port for port, other in taken.items() if other not in known]:
                del taken[port]

    def taken(self) -> dict[int, str]:
        """Port to owner."""
        with self._locked() as taken:
            return dict(taken)

    @contextmanager
    def _locked(self) -> Iterator[dict[int, str]]:
        """The record under its lock; a change is written when the block ends well."""
        with locks.lock(self._record.with_name(self._record.name + ".lock"), timeout=LOCK, what="the record of ports"):
            taken = self._read()
            before = dict(taken)
            yield taken
            if taken != before:
                filesystem.write_atomically(self._record, json.dumps(taken).encode())

    def _read(self) -> dict[int, str]:
        """A record that is missing or damaged is empty: whether a port is free is tried anyway."""
        try:
            return {int(port): str(owner) for port, owner in json.loads(self._record.read_text()).items()}
        except (OSError, ValueError, AttributeError):
            return {}
