"""The place of root: which host tools need it, and how they get it.

Nothing that raw and qcow2 disks, user networks and session mode do needs root, so the table is
empty. A tool that does need it is named here, and nowhere else.
"""

from __future__ import annotations

from typing import Final

NEEDS_ROOT: Final[frozenset[str]] = frozenset()
