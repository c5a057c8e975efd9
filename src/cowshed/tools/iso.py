"""ISO 9660 images with Joliet and Rock Ridge names, for config drives."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path, PurePosixPath

from cowshed.errors import DataCorrupt, InvalidRequest


def build(files: Mapping[str, bytes], label: str) -> bytes:
    """An image with ``files`` (relative path to content) and volume ``label``.

    :raises InvalidRequest: a name or the label does not fit into the format
    """
    import pycdlib
    from pycdlib.pycdlibexception import PyCdlibException

    image = pycdlib.PyCdlib()
    try:
        image.new(interchange_level=4, joliet=3, rock_ridge="1.09", vol_ident=label)
        made: set[PurePosixPath] = set()
        for name in sorted(files):
            path = _checked(name)
            for parent in reversed(path.parents[:-1]):
                if parent not in made:
                    image.add_directory(f"/{parent}".upper(), rr_name=parent.name, joliet_path=f"/{parent}")
                    made.add(parent)
            data = files[name]
            image.add_fp(io.BytesIO(data), len(data), f"/{path}".upper(), rr_name=path.name, joliet_path=f"/{path}")
        out = io.BytesIO()
        image.write_fp(out)
        image.close()
    except PyCdlibException as error:
        raise InvalidRequest(reason=f"the config drive {label} cannot be made: {error}") from error
    return out.getvalue()


def read(data: bytes, path: Path) -> tuple[dict[str, bytes], str]:
    """The files and the label of an image that :func:`build` has made; ``path`` names it in errors.

    :raises DataCorrupt:
    """
    import pycdlib
    from pycdlib.pycdlibexception import PyCdlibException

    image = pycdlib.PyCdlib()
    found: dict[str, bytes] = {}
    try:
        image.open_fp(io.BytesIO(data))
        for folder, _, names in image.walk(joliet_path="/"):
            for name in names:
                place, out = f"{folder.rstrip('/')}/{name}", io.BytesIO()
                image.get_file_from_iso_fp(out, joliet_path=place)
                found[place.lstrip("/")] = out.getvalue()
        label = image.pvd.volume_identifier.decode().rstrip()
        image.close()
    except (PyCdlibException, UnicodeDecodeError) as error:
        raise DataCorrupt(path=path, reason=f"it is no config drive: {error}") from error
    return found, label


def _checked(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in name:
        raise InvalidRequest(reason=f"{name!r} cannot be the name of a file on a config drive")
    return path
