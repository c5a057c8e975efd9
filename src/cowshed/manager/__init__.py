"""The standalone manager: records, states and locks around the driver. No server."""

from __future__ import annotations

from cowshed.manager.host import Host
from cowshed.manager.machine import Machine

__all__ = ["Host", "Machine"]
