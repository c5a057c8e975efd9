"""MAC addresses in QEMU's range, 52:54:00."""

from __future__ import annotations

import hashlib
import re

from cowshed.errors import InvalidRequest

_MAC = re.compile(r"([0-9a-f]{2}:){5}[0-9a-f]{2}")
_NOBODY = "00:00:00:00:00:00"


def derived(instance: str, number: int) -> str:
    """The same for the same instance and interface, so that a guest's network survives a rebuild."""
    digest = hashlib.sha256(f"{instance}/{number}".encode()).digest()
    return "52:54:00:" + ":".join(f"{byte:02x}" for byte in digest[:3])


def check(address: str) -> str:
    """In small letters. :raises InvalidRequest: it is no unicast MAC address"""
    address = address.lower().replace("-", ":")
    if not _MAC.fullmatch(address) or int(address[:2], 16) & 1 or address == _NOBODY:
        raise InvalidRequest(reason=f"{address!r} is not a MAC address", hint="for example 52:54:00:12:34:56")
    return address
