"""Network devices of this host, as /sys/class/net shows them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from cowshed.errors import InvalidRequest, NetworkNotFound

SYS: Final = Path("/sys/class/net")
_NAME: Final = re.compile(r"[^\s/:]{1,15}")


def check_name(name: str) -> None:
    """:raises InvalidRequest: the kernel has no device of such a name"""
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidRequest(reason=f"{name!r} cannot name a network device", hint="at most 15 letters, no space or /")


def exists(name: str, sys: Path = SYS) -> bool:
    return (sys / name).is_dir()


def is_tap(name: str, sys: Path = SYS) -> bool:
    return (sys / name / "tun_flags").exists()


def alias(name: str, sys: Path = SYS) -> str:
    """The note that somebody left on it; "" where there is none."""
    try:
        return (sys / name / "ifalias").read_text().strip()
    except OSError:
        return ""


def require(kind: str, name: str, sys: Path = SYS) -> None:
    """:raises NetworkNotFound: it is not there"""
    if not exists(name, sys):
        known = sorted(path.name for path in sys.glob("*") if path.name != "lo")
        raise NetworkNotFound(name=f"{kind} {name}", hint=f"devices of this host: {', '.join(known) or 'none'}")
