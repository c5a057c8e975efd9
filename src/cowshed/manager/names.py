"""Names of instances: what they may be, and one for those who did not choose."""

from __future__ import annotations

import random
import re
from collections.abc import Callable

from cowshed.errors import InvalidRequest

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9-]{0,62}")
_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)
_LABEL = r"[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?"
_HOST = re.compile(rf"{_LABEL}(\.{_LABEL})*")
_HOW = ("brave", "calm", "dappled", "gentle", "jolly", "keen", "lively", "mellow", "nimble", "proud", "quiet", "sunny")
_WHO = ("angus", "brindle", "bullock", "calf", "daisy", "galloway", "heifer", "highland", "jersey", "ox", "yak", "zebu")


def check(name: str) -> str:
    """:raises InvalidRequest: it cannot be the name of an instance"""
    if not _NAME.fullmatch(name) or name.endswith("-"):
        raise InvalidRequest(
            reason=f"{name!r} cannot be the name of an instance",
            hint="letters, digits and - are allowed, at most 63; a letter or digit comes first and last",
        )
    if _UUID.fullmatch(name):
        raise InvalidRequest(reason=f"{name!r} looks like a UUID; it could be taken for another instance's")
    return name


def check_host(name: str) -> str:
    """:raises InvalidRequest: it cannot be the name of a host, with or without its domain"""
    if len(name) > 253 or not _HOST.fullmatch(name):
        raise InvalidRequest(
            reason=f"{name!r} cannot be the name of a host",
            hint="labels of letters, digits and -, at most 63 each, with dots between them",
        )
    return name


def invent(taken: Callable[[str], bool]) -> str:
    """A name that is free, such as ``calm-heifer``."""
    for _ in range(50):
        name = f"{random.choice(_HOW)}-{random.choice(_WHO)}"
        if not taken(name):
            return name
    return f"cow-{random.randrange(10**6)}"
