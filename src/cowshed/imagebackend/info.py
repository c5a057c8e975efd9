"""``disk.info``: the format of each disk, decided once and remembered.

One line of JSON, absolute path to format, beside the disks; mode 0644. A guest owns the bytes of
its disk, so a format that was probed again later could be the guest's choice.
"""

from __future__ import annotations

import json
from pathlib import Path

from cowshed.errors import DataCorrupt
from cowshed.tools import filesystem, locks

FILE = "disk.info"


def read(path: Path) -> dict[str, str]:
    """An empty or missing file is an empty dictionary. :raises DataCorrupt: it is not what we write"""
    try:
        with filesystem.errors_of(path, "read"):
            text = path.read_text() if path.exists() else ""
        found = json.loads(text) if text.strip() else {}
    except ValueError as error:
        raise DataCorrupt(path=path, reason=f"it is not JSON: {error}") from error
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise DataCorrupt(path=path, reason="it does not map paths to formats")
    return found


def record(path: Path, disk: Path, format: str) -> None:
    """Remember ``format`` for ``disk``.

    :raises DataCorrupt: another format is recorded for it; that is never changed
    """
    filesystem.make_directory(path.parent)
    with locks.lock(path.with_name(f".{FILE}.lock"), timeout=60, what=str(path)):
        known = read(path)
        if known.get(str(disk), format) != format:
            raise DataCorrupt(path=path, reason=f"it says that {disk} is {known[str(disk)]}, not {format}")
        if str(disk) not in known:
            text = json.dumps({**known, str(disk): format}) + "\n"
            filesystem.write_atomically(path, text.encode(), mode=0o644)
