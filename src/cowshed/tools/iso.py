"""ISO 9660 images with Joliet and Rock Ridge names, for config drives."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import PurePosixPath


def build(files: Mapping[str, bytes], label: str) -> bytes:
    """An image with ``files`` (relative path to content) and volume ``label``."""
    import pycdlib

    image = pycdlib.PyCdlib()
    image.new(interchange_level=4, joliet=3, rock_ridge="1.09", vol_ident=label)
    made: set[PurePosixPath] = set()
    for name in sorted(files):
        path = PurePosixPath(name)
        for parent in reversed(path.parents[:-1]):
            if parent not in made:
                image.add_directory(f"/{parent}".upper(), rr_name=parent.name, joliet_path=f"/{parent}")
                made.add(parent)
        data = files[name]
        image.add_fp(io.BytesIO(data), len(data), f"/{path}".upper(), rr_name=path.name, joliet_path=f"/{path}")
    out = io.BytesIO()
    image.write_fp(out)
    image.close()
    return out.getvalue()
