"""Which shares an instance has: a record beside its disks, written before a share is mounted.

So that whatever a killed process had mounted is found again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from cowshed.model.share import Share, ShareProtocol
from cowshed.tools import filesystem, versioned

FILE: Final = "shares.json"
VERSION: Final = 1


def load(directory: Path) -> tuple[Share, ...]:
    """In the order they were given; none without a record.

    :raises DataCorrupt: it cannot be read
    """
    hint = (
        f"it is the record of instance {directory.name}: restore it from a backup, or stop that instance, "
        "move the file away, and attach its shares again"
    )
    return versioned.load(directory / FILE, "shares", VERSION, _share, hint=hint)


def save(directory: Path, shares: Sequence[Share]) -> None:
    """All of them, in one step; an instance without shares has no record."""
    if not shares:
        filesystem.remove_file(directory / FILE)
        return
    versioned.save(directory / FILE, "shares", VERSION, [_entry(one) for one in shares])


def _entry(share: Share) -> dict[str, Any]:
    return {name: value for name, value in dataclasses.asdict(share).items() if name != "status"}


def _share(entry: dict[str, Any]) -> Share:
    return Share(**{**entry, "protocol": ShareProtocol(entry["protocol"])})
