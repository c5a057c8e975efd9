"""nft(8) and its JSON, one transaction at a time; and what the kernel has of our table.

The format is libnftables-json(5). Everything in one call is one transaction: all of it, or nothing.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from cowshed.tools import privilege
from cowshed.tools.nfnetlink import Connection

FAMILY: Final = "netdev"
TABLE: Final = "cowshed"
_TIMEOUT: Final = 60.0  # seconds; another transaction may hold the kernel's lock

Statement = dict[str, Any]


def apply(commands: Sequence[Statement]) -> None:
    """Carry out ``commands`` (``{"add": {"chain": ...}}``, ...), all or none.

    :raises ToolFailed: the kernel refuses one :raises PermissionDenied: :raises ToolMissing:
    """
    text = json.dumps({"nftables": [{"metainfo": {"json_schema_version": 1}}, *commands]})
    privilege.run(["nft", "-j", "-f", "-"], input=text.encode(), timeout=_TIMEOUT)


def kernel() -> Connection:
    """What is in force. :raises PermissionDenied: :raises ToolFailed: the kernel has no nf_tables"""
    return Connection(TABLE)
