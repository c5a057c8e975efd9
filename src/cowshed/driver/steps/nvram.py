"""The UEFI variables of an instance: a file in its directory, made by libvirt from the firmware's template where there is none."""

from __future__ import annotations

import base64
import zlib
from typing import TYPE_CHECKING, Final

from cowshed.domain.firmware import NVRAM
from cowshed.errors import DataCorrupt
from cowshed.units import MiB

if TYPE_CHECKING:
    from pathlib import Path

    from cowshed.driver.rooms import Rooms

LARGEST: Final = 64 * MiB  # a firmware's variables are of half a MiB
_ASIDE: Final = f"{NVRAM}.was"


def set_aside(rooms: Rooms, uuid: str) -> None:
    """The next start begins with the template's; none is success."""
    _rename(rooms, uuid, NVRAM, _ASIDE)


def give_back(rooms: Rooms, uuid: str) -> None:
    """Those that were set aside; none is success."""
    _rename(rooms, uuid, _ASIDE, NVRAM)


def forget(rooms: Rooms, uuid: str) -> None:
    """Those that were set aside; already gone is success."""
    from cowshed.tools import filesystem

    filesystem.remove_file(rooms.directory(uuid).path / _ASIDE)


def _rename(rooms: Rooms, uuid: str, old: str, new: str) -> None:
    from cowshed.tools import filesystem

    directory = rooms.directory(uuid).path
    if (directory / old).exists():
        filesystem.rename(directory / old, directory / new, replace=True)
        filesystem.sync_directory(directory)


def packed(rooms: Rooms, uuid: str) -> str:
    """Them as one word, to be sent to another host; "": there are none."""
    path = rooms.directory(uuid).path / NVRAM
    return base64.b64encode(zlib.compress(path.read_bytes())).decode() if path.exists() else ""


def unpack(directory: Path, text: str) -> None:
    """What ``packed`` has made, into the directory of an instance. :raises DataCorrupt: it is not that"""
    from cowshed.tools import filesystem

    if not text:
        return
    try:
        stream = zlib.decompressobj()
        content = stream.decompress(base64.b64decode(text, validate=True), LARGEST)
        if not stream.eof:
            raise ValueError("it is too large, or cut off")
    except (ValueError, zlib.error) as error:
        raise DataCorrupt(path=directory / NVRAM, reason=f"what came of it cannot be used: {error}") from error
    filesystem.write_atomically(directory / NVRAM, content)
