"""The layers of a file-based volume: an overlay and what is below it, each with its format.

The headers read here are written by QEMU and the volume service; a guest writes what is in an image,
not the image's header. What is below a raw file is nothing, whatever its bytes look like.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from cowshed.errors import DataCorrupt, ImageRejected, NotFound
from cowshed.model.disk import DiskFormat, DiskSource, DiskType
from cowshed.tools import filesystem
from cowshed.tools.qcow2 import header as qcow2

LONGEST: Final = 64


def source(path: Path, format: DiskFormat) -> DiskSource:
    """The whole chain of a volume.

    :raises NotFound: :raises ImageRejected: it refers to something outside its directory, or does not
        say the format of what is below it
    """
    layers = list(reversed(layers_of(path, format)))
    found: DiskSource | None = None
    for layer, kind in layers:
        found = DiskSource(DiskType.FILE, kind, layer, backing=found)
    assert found is not None
    return found


def layers_of(path: Path, format: DiskFormat) -> list[tuple[Path, DiskFormat]]:
    """Top first."""
    layers = [(path, format)]
    while (below := _below(*layers[-1])) is not None:
        layers.append(below)
        if len(layers) > LONGEST or below[0] in [layer for layer, _ in layers[:-1]]:
            raise ImageRejected(image=path, reason="its chain of backing files is too long or a circle")
    return layers


def _below(path: Path, format: DiskFormat) -> tuple[Path, DiskFormat] | None:
    fd = _open(path)
    try:
        if format == DiskFormat.RAW:
            return None
        header = qcow2.read_header(fd)
    except qcow2.QcowError as error:
        raise ImageRejected(image=path, reason=str(error)) from error
    finally:
        os.close(fd)
    if header.has_data_file:
        raise ImageRejected(image=path, reason="its data lies in another file")
    if header.encryption:
        raise ImageRejected(image=path, reason="it is encrypted; use a LUKS volume for that")
    if header.incompatible & qcow2.CORRUPT:
        raise DataCorrupt(path=path, reason="it is marked as corrupt", hint="repair it with qemu-img check -r")
    if header.backing is None:
        return None
    return _neighbour(path, header.backing), _format(path, header.backing_format)


def _neighbour(path: Path, name: bytes) -> Path:
    """Only files of the volume's own directory: a name with a protocol or a path elsewhere is no volume of ours."""
    text = os.fsdecode(name).removeprefix("file:")
    backing = path.parent / text
    if backing.parent != path.parent or not text or ":" in Path(text).name:
        raise ImageRejected(image=path, reason=f"its backing file {text!r} is not in its directory")
    return backing


def _format(path: Path, name: str | None) -> DiskFormat:
    if name not in (DiskFormat.RAW, DiskFormat.QCOW2):
        raise ImageRejected(image=path, reason=f"it calls the format of its backing file {name!r}")
    return DiskFormat(name)


def _open(path: Path) -> int:
    if not path.exists():
        raise NotFound(kind="volume", name=path)
    with filesystem.errors_of(path, "open"):
        return filesystem.open_regular(path)
