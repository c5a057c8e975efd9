"""A list in a JSON file that says by which version of its shape it was written."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

from cowshed.errors import DataCorrupt
from cowshed.tools import filesystem

T = TypeVar("T")


def load(
    path: Path, name: str, version: int, make: Callable[[dict[str, Any]], T], *, hint: str | None = None
) -> tuple[T, ...]:
    """What ``make`` makes of each entry of the list ``name``, in its order; nothing without a file.

    :param hint: what to do about one that cannot be read
    :raises DataCorrupt: it cannot be read, or a newer cowshed has written it
    """
    try:
        record = json.loads(path.read_text())
        if record["version"] > version:
            raise ValueError(f"it was written by a newer cowshed (version {record['version']})")
        return tuple(make(one) for one in record[name])
    except (FileNotFoundError, NotADirectoryError):
        return ()
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataCorrupt(path=path, reason=f"which {name} there are cannot be read: {error}", hint=hint) from error


def save(path: Path, name: str, version: int, entries: Iterable[dict[str, Any]]) -> None:
    """All of them, in one step."""
    text = json.dumps({"version": version, name: list(entries)}, indent=1)
    filesystem.write_atomically(path, text.encode())
