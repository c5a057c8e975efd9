"""Space put by for a full disk.

Guests fill disks, and the way out is to remove instances; but SQLite needs some room to note that,
and even to be opened. A file of this size stands in the state directory while there is plenty of
space, and goes when something must be noted and nothing is left.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from cowshed.tools import filesystem

SIZE: Final = 1 << 20  # bytes; SQLite's index of its log takes 32 KiB, a change a few pages of 4 KiB
PLENTY: Final = 64 << 20  # bytes that are free before any are put by


def path_in(directory: Path) -> Path:
    return directory / "reserve"


def is_full(directory: Path) -> bool:
    """There is less space than a change of the records may take."""
    return filesystem.free_space(directory) < SIZE


def put_by(directory: Path) -> None:
    """Once, where there is plenty; not being able to is no error."""
    path = path_in(directory)
    if path.exists() or filesystem.free_space(directory) < PLENTY:
        return
    with suppress(OSError):
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, SIZE)
        finally:
            os.close(descriptor)


def give_up(directory: Path) -> None:
    with suppress(OSError):
        path_in(directory).unlink()
