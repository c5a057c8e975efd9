"""Sizes and times: bytes and seconds everywhere, words only at the edge."""

from __future__ import annotations

import re
from typing import Final

from cowshed.errors import InvalidRequest

KiB: Final = 1 << 10
MiB: Final = 1 << 20
GiB: Final = 1 << 30
TiB: Final = 1 << 40
LARGEST: Final = (1 << 63) - 1  # what the kernel's, QEMU's and libvirt's numbers hold

_FACTORS: Final = {"": 1, "B": 1, "K": KiB, "M": MiB, "G": GiB, "T": TiB, "P": 1 << 50}
_SIZE: Final = re.compile(r"(\d+(?:\.\d+)?)\s*([KMGTP]?)(?:i?B)?", re.IGNORECASE)
_SECONDS: Final = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|[smhd]?)", re.IGNORECASE)


def parse_size(text: str | float) -> int:
    """Bytes in ``text``; ``20G``, ``20GB`` and ``20GiB`` all mean 20 * 2**30.

    :raises InvalidRequest: it is not a size (a number of bytes is whole), or one of more than 8 EiB
    """
    if isinstance(text, int):
        return checked_size(text)
    match = _SIZE.fullmatch(text.strip()) if isinstance(text, str) else None
    if not match:
        raise InvalidRequest(
            reason=f"{text!r} is not a size", hint="write a number and a unit, for example 512M or 20G"
        )
    whole, factor = "." not in match[1], _FACTORS[match[2].upper()]
    return checked_size(int(match[1]) * factor if whole else int(float(match[1]) * factor))


def checked_size(size: int) -> int:
    """:raises InvalidRequest: it is negative, or more than the kernel's, QEMU's and libvirt's numbers hold"""
    if size > LARGEST:
        raise InvalidRequest(reason=f"{format_size(size)} is more than a disk, a file or a memory can have (8 EiB)")
    if size < 0:
        raise InvalidRequest(reason=f"{size} is not a size")
    return size


def format_size(size: int) -> str:
    """``size`` bytes in the largest unit that keeps at most one decimal, such as ``1.5 GiB``."""
    value, unit = float(size), "B"
    for unit in ("B", "KiB", "MiB", "GiB", "TiB", "PiB"):
        if abs(value) < 1024 or unit == "PiB":
            break
        value /= 1024
    return f"{value:.0f} {unit}" if value == int(value) else f"{value:.1f} {unit}"


def parse_duration(text: str | float) -> float:
    """Seconds in ``text``: ``90``, ``90s``, ``1.5m``, ``2h``.

    :raises InvalidRequest: it is not a duration
    """
    if isinstance(text, (int, float)):
        return float(text)
    match = _DURATION.fullmatch(text.strip())
    if not match:
        raise InvalidRequest(
            reason=f"{text!r} is not a duration", hint="write a number and a unit, for example 90s or 5m"
        )
    return float(match[1]) * _SECONDS[match[2].lower()]


def format_duration(seconds: float) -> str:
    """``seconds`` in words of at most two units, such as ``2 h 5 min``."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min" + (f" {rest} s" if rest and minutes < 10 else "")
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h" + (f" {minutes} min" if minutes else "")
    days, hours = divmod(hours, 24)
    return f"{days} d" + (f" {hours} h" if hours else "")
