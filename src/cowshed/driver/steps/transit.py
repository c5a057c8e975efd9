"""Which instances are on their way between this host and another: a note for each, of this host alone.

Beside the instances' directories and not in them: both hosts may share those. Written before anything is
begun and gone when all is over, so that a killed process is found out. While an instance has a note of
:attr:`Way.OUT`, nobody starts it here: it may run there.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from cowshed.errors import DataCorrupt, InvalidState
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from pathlib import Path

    from cowshed.driver.rooms import Rooms


class Way(StrEnum):
    OUT = "out"
    IN = "in"


class Phase(StrEnum):
    """``LEAVING``: the guest is being moved; ``GONE``: it runs there; ``KEPT``: stopped, its disks kept for a revert."""

    LEAVING = "leaving"
    GONE = "gone"
    KEPT = "kept"


def note(rooms: Rooms, uuid: str, way: Way, **facts: Any) -> None:
    """Write what is known, in place of what was."""
    from cowshed.tools import filesystem

    filesystem.make_directory(_folder(rooms))
    filesystem.write_atomically(_path(rooms, uuid, way), json.dumps(facts).encode())


def noted(rooms: Rooms, uuid: str, way: Way) -> dict[str, Any] | None:
    """:raises DataCorrupt: it cannot be read; what cannot be known is not started"""
    path = _path(rooms, uuid, way)
    try:
        return dict(json.loads(path.read_text()))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataCorrupt(path=path, reason=str(error), hint=f"see where {uuid} runs, then remove it") from error


def forget(rooms: Rooms, uuid: str, way: Way) -> None:
    """Already gone is success."""
    from cowshed.tools import filesystem

    if _path(rooms, uuid, way).exists():
        filesystem.remove_file(_path(rooms, uuid, way))


def each(rooms: Rooms, way: Way) -> Iterator[str]:
    """The UUIDs of all that have a note."""
    ending = f".{way}.json"
    for path in sorted(_folder(rooms).glob(f"*{ending}")):
        yield path.name.removesuffix(ending)


def kept(rooms: Rooms, uuid: str) -> dict[str, Any] | None:
    """What was noted when it was resized or sent, while that waits for a confirmation or a revert here."""
    found = noted(rooms, uuid, Way.OUT)
    return found if found and found.get("phase") == Phase.KEPT else None


def gone(rooms: Rooms, uuid: str) -> bool:
    """Does it run on another host by now, or is kept here only for a revert?"""
    found = noted(rooms, uuid, Way.OUT)
    return found is not None and not found.get("here") and found.get("phase") in (Phase.GONE, Phase.KEPT)


def refuse(rooms: Rooms, instance: Instance, action: str) -> None:
    """:raises InvalidState: it is on its way to another host, or there"""
    found = noted(rooms, instance.uuid, Way.OUT)
    if found is None or found.get("here"):
        return  # resized in place: it is stopped or runs, and what is kept stays beside it
    raise _refusal(instance, found, action)


def refuse_another(rooms: Rooms, instance: Instance, action: str) -> None:
    """:raises InvalidState: a resize or a move of it is under way, or waits for its end"""
    if found := noted(rooms, instance.uuid, Way.OUT):
        raise _refusal(instance, found, action)


def refuse_kept(rooms: Rooms, instance: Instance, action: str) -> None:
    """:raises InvalidState: its disks of before are kept here, as the disks that they are now"""
    if found := kept(rooms, instance.uuid):
        raise _refusal(instance, found, action)


def _refusal(instance: Instance, found: Mapping[str, Any], action: str) -> InvalidState:
    """In which state it is, and how that ends."""
    name, dest = instance.name, found.get("dest", "")
    if found.get("here"):
        state = "resized, and that was neither confirmed nor reverted"
        hint = f"cowshed resize {name} --confirm keeps it so, --revert takes it back"
    elif found.get("phase") == Phase.KEPT:
        state = f"moved to {dest}, and that was neither confirmed nor reverted"
        hint = f"cowshed resize {name} --confirm, if it came to {dest}, leaves it there; --revert starts it here again"
    elif found.get("phase") == Phase.GONE:
        state, hint = f"on {dest}", "use it there"
    else:
        state, hint = f"on its way to {dest}", "wait until it is there, or abort the migration"
    return InvalidState(name=name, state=state, action=action, hint=hint)


def busy(rooms: Rooms, uuid: str, way: Way, *, patience: float = 0.0) -> AbstractContextManager[None]:
    """One process works on this note; its death lets go. :raises Busy: another one does, for ``patience`` seconds"""
    from cowshed.tools import locks

    return locks.lock(
        rooms.state / "locks" / f"transit-{uuid}.{way}", timeout=patience, what=f"the migration of {uuid}"
    )


def _folder(rooms: Rooms) -> Path:
    return rooms.state / "transit"


def _path(rooms: Rooms, uuid: str, way: Way) -> Path:
    return _folder(rooms) / f"{rooms.directory(uuid).path.name}.{way}.json"
