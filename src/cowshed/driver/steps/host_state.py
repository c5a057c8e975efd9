"""Whether this host takes new instances, kept over restarts.

Reasons of different kinds are kept apart: the end of a maintenance does not enable a host that
somebody has disabled.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Final

from cowshed.errors import DataCorrupt, HostUnsuitable

if TYPE_CHECKING:
    from pathlib import Path

    from cowshed.driver.rooms import Rooms

FILE: Final = "disabled.json"
NODE: Final = "node-uuid"
DECIDED, MAINTENANCE, UNREACHABLE = "decided", "maintenance", "unreachable"


def reasons(rooms: Rooms) -> dict[str, str]:
    """Why the host is disabled; empty: it is not. :raises DataCorrupt:"""
    try:
        found = json.loads(_path(rooms).read_text())
        return {str(kind): str(reason) for kind, reason in found.items()}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, AttributeError) as error:
        raise DataCorrupt(path=_path(rooms), reason=str(error), hint="remove it to enable the host") from error


def node_uuid(rooms: Rooms) -> str:
    """Of this host, made once and kept: it stays when the host is renamed."""
    from cowshed.tools import filesystem, locks

    path = rooms.facts / NODE
    filesystem.make_directory(path.parent)
    with locks.directory(path.parent, timeout=60, what="what this host knows of itself"):
        if not path.exists():
            filesystem.write_atomically(path, str(uuid.uuid4()).encode())
    return str(uuid.UUID(path.read_text().strip()))


def disable(rooms: Rooms, kind: str, reason: str) -> None:
    _write(rooms, {**reasons(rooms), kind: reason})


def enable(rooms: Rooms, kind: str) -> None:
    """Take back what was said under ``kind``; other reasons stay."""
    _write(rooms, {other: reason for other, reason in reasons(rooms).items() if other != kind})


def watch_libvirt(rooms: Rooms) -> None:
    """While libvirt cannot be reached the host is disabled for that reason; what others have said stays as it is."""

    def away(reason: str) -> None:
        disable(rooms, UNREACHABLE, f"libvirt cannot be reached: {reason}")

    rooms.hypervisor.watch_link(away=away, back=lambda: enable(rooms, UNREACHABLE))
    enable(rooms, UNREACHABLE)  # what a process that was killed meanwhile has said


def refuse_disabled(rooms: Rooms) -> None:
    """:raises HostUnsuitable: no new instances here :raises HypervisorUnavailable:"""
    if UNREACHABLE in reasons(rooms):
        rooms.hypervisor.open()
        enable(rooms, UNREACHABLE)
    for reason in reasons(rooms).values():
        raise HostUnsuitable(reason=f"it is disabled ({reason})", hint="cowshed host enable")


def _write(rooms: Rooms, found: dict[str, str]) -> None:
    from cowshed.tools import filesystem

    path = _path(rooms)
    if found:
        filesystem.make_directory(path.parent)
        filesystem.write_atomically(path, json.dumps(found).encode())
    elif path.exists():
        filesystem.remove_file(path)


def _path(rooms: Rooms) -> Path:
    return rooms.facts / FILE
