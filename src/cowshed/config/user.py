"""Who runs this. A container may run us under a number that has neither a name nor a home."""

from __future__ import annotations

import os
import pwd
from pathlib import Path


def name() -> str:
    """Of the user; the number where the system knows no name."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def home() -> Path | None:
    """HOME, else what the system says; None: neither names one."""
    found = os.path.expanduser("~")
    return None if found == "~" else Path(found)


def path(text: str | Path) -> Path:
    """As the user writes it: with ``~`` for a home, where there is one, as for shells."""
    return Path(os.path.expanduser(text))
