"""What somebody has said of an instance for later: that it was soft-deleted, that it must not start.

Beside its disks and not in the domain: the definition is made anew at every start.
"""

from __future__ import annotations

import json
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from cowshed.driver.steps import transit
from cowshed.errors import DataCorrupt, InvalidState
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

FILE: Final = "marks.json"


class Mark(StrEnum):
    SOFT_DELETED = "soft-deleted"
    NOT_BOOTABLE = "not-bootable"
    AUTOSTART = "autostart"  # libvirt started it with the host before one of the others came


_REASON: Final = {
    Mark.SOFT_DELETED: ("deleted", "restore it first"),
    Mark.NOT_BOOTABLE: ("not bootable", "somebody has forbidden that it is started (set_bootable)"),
}
FORBIDDING: Final = frozenset(_REASON)


def marks(rooms: Rooms, uuid: str) -> frozenset[Mark]:
    """:raises DataCorrupt: they cannot be read; an instance whose marks are not known is not started"""
    path = rooms.directory(uuid).path / FILE
    try:
        return frozenset(Mark(word) for word in json.loads(path.read_text()))
    except FileNotFoundError:
        return frozenset()
    except (OSError, ValueError, TypeError) as error:
        raise DataCorrupt(path=path, reason=str(error), hint=f"remove it, and {uuid} may be started") from error


def mark(rooms: Rooms, uuid: str, word: Mark) -> None:
    _write(rooms, uuid, marks(rooms, uuid) | {word})


def unmark(rooms: Rooms, uuid: str, word: Mark) -> None:
    """Not marked is success."""
    _write(rooms, uuid, marks(rooms, uuid) - {word})


def _write(rooms: Rooms, uuid: str, words: frozenset[Mark]) -> None:
    from cowshed.tools import filesystem

    path = rooms.directory(uuid).path / FILE
    if words:
        filesystem.make_directory(path.parent)  # a domain that is ours by its UUID alone
        filesystem.write_atomically(path, json.dumps(sorted(words)).encode())
    elif path.exists():
        filesystem.remove_file(path)


def refuse_deleted(rooms: Rooms, instance: Instance, action: str) -> None:
    """:raises InvalidState: it is deleted softly: nothing is given to it, and nothing done with it, until it is restored"""
    if Mark.SOFT_DELETED in marks(rooms, instance.uuid):
        state, hint = _REASON[Mark.SOFT_DELETED]
        raise InvalidState(name=instance.name, state=state, action=action, hint=hint)


def refuse_leaving(rooms: Rooms, instance: Instance, action: str) -> None:
    """:raises InvalidState: it is on its way to another host, or there, or may be there"""
    from cowshed.driver.steps import settling

    settling.recover_one(rooms, instance.uuid)  # a migration whose driver was killed
    transit.refuse(rooms, instance, action)


def refuse_marked(rooms: Rooms, instance: Instance, action: str = "started") -> None:
    """:raises InvalidState: it must not start"""
    refuse_leaving(rooms, instance, action)
    for word in sorted(marks(rooms, instance.uuid) & FORBIDDING):
        state, hint = _REASON[word]
        raise InvalidState(name=instance.name, state=state, action=action, hint=hint)
