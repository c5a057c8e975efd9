"""Is a program QEMU's system emulator? Asked of the one that the configuration names."""

from __future__ import annotations

import os
from typing import Final

from cowshed.errors import CowshedError
from cowshed.tools import run

REMEDY: Final = "set it to the path of QEMU's system emulator, or leave it out: libvirt names one then"


def unusable(path: str) -> str:
    """A sentence why ``path`` is of no use; empty: it says of itself that it is one."""
    if not os.path.isabs(path):
        return f"{path} is no absolute path"
    if not os.path.exists(path):
        return f"{path} does not exist"
    if not os.path.isfile(path) or run.find(path) is None:
        return f"{path} is no program"
    try:
        said = run.run([path, "--version"], timeout=10).stdout
    except CowshedError:
        said = b""
    return "" if said.startswith(b"QEMU emulator") else f"{path} is no QEMU system emulator"
