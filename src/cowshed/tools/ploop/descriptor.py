"""``DiskDescriptor.xml``: the size of the disk, its geometry, its deltas and which stands on which."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cowshed.tools.ploop import xml
from cowshed.tools.ploop.errors import PloopError

FILE: Final = "DiskDescriptor.xml"
SECTOR: Final = 512
NONE: Final = "{00000000-0000-0000-0000-000000000000}"  # the parent of the lowest delta
TOP: Final = "{5fbaabe3-6958-40ff-92a7-860e329aab41}"  # what the tools call the present state
BACKUP: Final = "{704718e1-2314-44c8-9087-d78ed36b0f4e}"  # reserved for backups; never the top
_GUID = re.compile(r"\{[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\}")
_SECTORS: Final = 1 << 55  # 16 EiB
_LARGEST_CLUSTER: Final = 1 << 17  # sectors: 64 MiB
_MOST: Final = 1024  # deltas


class Kind(StrEnum):
    """What a data file is: all of the disk as it is, or a header, a table and the clusters in use."""

    PLAIN = "Plain"
    EXPANDED = "Compressed"  # its name in the file; nothing is compressed


@dataclass(frozen=True, slots=True)
class Delta:
    """``file`` is a name inside the directory; ``parent`` the GUID below, or :data:`NONE`."""

    guid: str
    kind: Kind
    file: str
    parent: str = NONE


@dataclass(frozen=True, slots=True)
class Descriptor:
    """``size`` and ``cluster`` in bytes; ``deltas`` from the lowest up, ``top`` the GUID of the present state."""

    size: int
    deltas: tuple[Delta, ...]
    top: str = TOP
    cluster: int = 2048 * SECTOR
    preallocated: bool = False

    @property
    def present(self) -> Delta:
        """The one that is written to. :raises PloopError: it stands on others, which QEMU cannot read"""
        (found,) = [delta for delta in self.deltas if delta.guid == self.top]
        if found.parent != NONE:
            raise PloopError(
                f"its content lies in {len(self.deltas)} deltas, which QEMU cannot read; "
                "merge them first (ploop snapshot-merge -A)"
            )
        return found


def geometry(sectors: int) -> tuple[int, int, int]:
    """(cylinders, heads, sectors a track) whose product is ``sectors``; 16 heads of 32 where that can be."""
    track = next(number for number in (32, *range(63, 0, -1)) if sectors % number == 0)
    heads = next(number for number in range(16, 0, -1) if sectors // track % number == 0)
    return sectors // track // heads, heads, track


# --- writing ----------------------------------------------------------------------------------


def render(descriptor: Descriptor) -> bytes:
    """The file's content, as the tools lay it out."""
    sectors = descriptor.size // SECTOR
    cylinders, heads, track = geometry(sectors)
    preallocated = "      <Preallocated>1</Preallocated>\n" if descriptor.preallocated else ""
    images = "".join(map(_image, descriptor.deltas))
    shots = "".join(map(_shot, descriptor.deltas))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Parallels_disk_image Version="1.0">
  <Disk_Parameters>
    <Disk_size>{sectors}</Disk_size>
    <Cylinders>{cylinders}</Cylinders>
    <Heads>{heads}</Heads>
    <Sectors>{track}</Sectors>
    <Padding>0</Padding>
  </Disk_Parameters>
  <StorageData>
    <Storage>
      <Start>0</Start>
      <End>{sectors}</End>
      <Blocksize>{descriptor.cluster // SECTOR}</Blocksize>
{preallocated}{images}    </Storage>
  </StorageData>
  <Snapshots>
    <TopGUID>{descriptor.top}</TopGUID>
{shots}  </Snapshots>
</Parallels_disk_image>
""".encode()


def _image(delta: Delta) -> str:
    return f"""      <Image>
        <GUID>{delta.guid}</GUID>
        <Type>{delta.kind}</Type>
        <File>{delta.file}</File>
      </Image>
"""


def _shot(delta: Delta) -> str:
    return f"""    <Shot>
      <GUID>{delta.guid}</GUID>
      <ParentGUID>{delta.parent}</ParentGUID>
    </Shot>
"""


# --- reading ----------------------------------------------------------------------------------


def parse(text: bytes) -> Descriptor:
    """What the file says, every part of it checked.

    :raises PloopError: with the reason
    """
    root = xml.parse(text)
    if root.name != "Parallels_disk_image":
        raise PloopError(f"it is a <{root.name[:40]}>, not a <Parallels_disk_image>")
    sectors = _size(root.one("Disk_Parameters"))
    storage = root.one("StorageData").one("Storage")
    if storage.number("Start", 0) or storage.number("End", _SECTORS) != sectors:
        raise PloopError("its storage does not cover the whole disk")
    cluster = storage.number("Blocksize", _LARGEST_CLUSTER)
    if not cluster:
        raise PloopError("its cluster size is 0")
    snapshots = root.one("Snapshots")
    deltas = _deltas(storage.all("Image"), snapshots.all("Shot"))
    top = _guid(snapshots.word("TopGUID"))
    if top not in [delta.guid for delta in deltas]:
        raise PloopError(f"the present state {top} is none of its images")
    if top == BACKUP:
        raise PloopError(f"the present state has the GUID {top}, which is reserved for backups")
    preallocated = bool(storage.all("Preallocated")) and bool(storage.number("Preallocated", 1))
    return Descriptor(sectors * SECTOR, deltas, top, cluster * SECTOR, preallocated)


def _size(parameters: xml.Node) -> int:
    sectors = parameters.number("Disk_size", _SECTORS)
    product = 1
    for name in ("Cylinders", "Heads", "Sectors"):
        product *= parameters.number(name, _SECTORS)
    if not sectors or product != sectors:
        raise PloopError(f"its size is {sectors} sectors, but its geometry {product}")
    return sectors


def _deltas(images: list[xml.Node], shots: list[xml.Node]) -> tuple[Delta, ...]:
    if not 0 < len(images) <= _MOST:
        raise PloopError(f"it has {len(images)} images")
    parents: dict[str, str] = {}
    for shot in shots:
        guid = _guid(shot.word("GUID"))
        if guid in parents or guid == NONE:
            raise PloopError(f"two snapshots have the GUID {guid}")
        parents[guid] = _guid(shot.word("ParentGUID"))
    found = [_delta(image, parents) for image in images]
    guids = [delta.guid for delta in found]
    if len(set(guids)) != len(guids) or len({delta.file for delta in found}) != len(found):
        raise PloopError("two of its images have one GUID or one file")
    if set(guids) != set(parents):
        raise PloopError("its images and its snapshots are not the same")
    return tuple(_in_order(found))


def _delta(image: xml.Node, parents: dict[str, str]) -> Delta:
    guid, kind = _guid(image.word("GUID")), image.word("Type")
    if kind not in list(Kind):
        raise PloopError(f"an image has the type {kind[:40]!r}")
    file = image.word("File")
    if file in ("", ".", "..") or "/" in file or "\0" in file or len(file) > 255:
        raise PloopError(f"the image file {file[:80]!r} is not inside its directory")
    if guid not in parents:
        raise PloopError(f"the image {guid} is no snapshot")
    return Delta(guid, Kind(kind), file, parents[guid])


def _in_order(deltas: list[Delta]) -> list[Delta]:
    """Parents before children. :raises PloopError: a parent is missing, or they stand on each other"""
    ordered: list[Delta] = []
    below = {NONE}
    waiting = deltas
    while waiting:
        ready = [delta for delta in waiting if delta.parent in below]
        if not ready:
            raise PloopError(f"the image {waiting[0].guid} stands on {waiting[0].parent}, which leads nowhere")
        ordered += ready
        below |= {delta.guid for delta in ready}
        waiting = [delta for delta in waiting if delta not in ready]
    return ordered


def _guid(word: str) -> str:
    if not _GUID.fullmatch(word.lower()):
        raise PloopError(f"{word[:60]!r} is not a GUID in braces")
    return word.lower()
