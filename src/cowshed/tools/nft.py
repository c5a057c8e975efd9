"""nft(8) and its JSON: one transaction at a time, and what the kernel has of our table.

The format is libnftables-json(5). Everything in one call is one transaction: all of it, or nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from cowshed.errors import DataCorrupt
from cowshed.tools import privilege
from cowshed.tools.run import Result

FAMILY: Final = "netdev"
TABLE: Final = "cowshed"
_LONGEST: Final = 256 << 20  # bytes of a list; a filtered interface takes about 30 KiB
_TIMEOUT: Final = 60.0  # seconds; another transaction may hold the kernel's lock

Statement = dict[str, Any]


def apply(commands: Sequence[Statement]) -> None:
    """Carry out ``commands`` (``{"add": {"chain": ...}}``, ...), all or none.

    :raises ToolFailed: the kernel refuses one :raises PermissionDenied: :raises ToolMissing:
    """
    text = json.dumps({"nftables": [{"metainfo": {"json_schema_version": 1}}, *commands]})
    privilege.run(["nft", "-j", "-f", "-"], input=text.encode(), timeout=_TIMEOUT)


def table() -> list[Statement]:
    """The objects of our table (``{"chain": ...}``, ``{"rule": ...}``); empty where it is not there."""
    listed = _list("table", FAMILY, TABLE, check=False)
    if listed.status == 0:
        return _objects(listed.stdout)
    # Absent, or something else is wrong, which this call then says: it fails in no other way.
    tables = _objects(_list("tables").stdout)
    if any(one.get("table", {}).get("name") == TABLE and one["table"]["family"] == FAMILY for one in tables):
        return _objects(_list("table", FAMILY, TABLE).stdout)
    return []


def _list(*what: str, check: bool = True) -> Result:
    """Without the elements of sets, which may be many."""
    return privilege.run(["nft", "-j", "-t", "list", *what], timeout=_TIMEOUT, check=check, keep=_LONGEST)


def _objects(output: bytes) -> list[Statement]:
    try:
        found = json.loads(output)["nftables"]
    except (ValueError, KeyError, TypeError) as error:
        raise DataCorrupt(path="what nft lists", reason=str(error)) from error
    return [one for one in found if "metainfo" not in one]
