"""Volumes that are not finished: their names, who makes them, and what is left of those who died."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from cowshed.errors import CowshedError
from cowshed.tools import cryptsetup, lvm

NEW: Final = "cowshed-new-"
GONE: Final = "cowshed-gone-"
BASE: Final = "cowshed-base-"
MOVED: Final = "cowshed-moved-"


def name(prefix: str) -> str:
    return prefix + secrets.token_hex(6)


@contextmanager
def volume(group: str, make: Callable[[str, list[str]], None], **facts: str) -> Iterator[str]:
    """A new volume under a name that nobody else has; removed when the block ends before it was renamed.

    :param make: is given the name and the tags
    """
    new = name(NEW)
    try:
        make(new, lvm.tags(**facts, maker=_maker()))
        yield new
    except BaseException:
        # The name is ours alone: whatever has it was made in this block. The first error goes up.
        with suppress(CowshedError):
            cryptsetup.close(new)
            lvm.remove(group, new)
        raise


def abandoned(volume: lvm.Volume) -> bool:
    """Was it being made by a process that is no more?"""
    return volume.ours and volume.name.startswith(NEW) and not _alive(volume.tags.get("maker", ""))


def _maker() -> str:
    """A process for ever: its number, when it started, and in which life of the machine."""
    return f"{os.getpid()}.{_started(os.getpid())}.{_boot()}"


def _alive(maker: str) -> bool:
    number, _, rest = maker.partition(".")
    return number.isdigit() and rest == f"{_started(int(number))}.{_boot()}"


def _started(process: int) -> str:
    """In clock ticks since boot; the name, in parentheses, may contain anything."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return ""


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
