"""What is written down while an image is made of an instance, so that a killed process can be cleaned up after."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from cowshed import log
from cowshed.model.image import Image
from cowshed.model.instance import Instance

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_log = log.logger(__name__)

NOTE: Final = "capture.json"  # in the instance's directory


@dataclass(frozen=True, slots=True)
class Note:
    """``images``: ids of the records on their way; all of them or none shall stay when it is a ``set``.

    ``live``: a guest ran, and may have been quiesced.
    """

    images: tuple[str, ...]
    set: bool = False
    live: bool = False


@contextmanager
def alone(rooms: Rooms, instance: Instance) -> Iterator[None]:
    """Whoever makes images of the instance, or cleans up after one who died, does so alone.

    :raises Busy: somebody is at it
    """
    from cowshed.tools import filesystem, locks

    path = rooms.state / "locks" / f"capture-{instance.uuid}"
    filesystem.make_directory(path.parent)
    with locks.lock(path, timeout=0, what=f"the image of {instance.name}"):
        yield


@contextmanager
def noted(rooms: Rooms, instance: Instance, images: Sequence[Image], *, set: bool, live: bool) -> Iterator[None]:
    """:raises Busy: somebody else makes images of it"""
    from cowshed.tools import filesystem

    note = Note(tuple(image.id for image in images), set=set, live=live)
    with alone(rooms, instance):
        path = where(rooms, instance)
        filesystem.write_atomically(path, json.dumps({"version": 2, **asdict(note)}).encode())
        try:
            yield
        finally:
            filesystem.remove_file(path)


def where(rooms: Rooms, instance: Instance) -> Path:
    return rooms.directory(instance.uuid).path / NOTE


def read(path: Path) -> Note | None:
    """None: there is none, or it cannot be read, which is logged."""
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        if found["version"] == 1:
            return Note((str(found["image"]),))
        return Note(tuple(map(str, found["images"])), bool(found["set"]), bool(found["live"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        _log.warning("%s cannot be read: %s", path, error)
        return None
