"""Pools of hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cowshed.contract.promise import refuse, unfulfilled


class Aggregates:
    """Pools of hosts."""

    @unfulfilled
    def add_to_aggregate(self, context: Any, aggregate: Any, host: str, **kwargs: Any) -> None:
        """This host, or ``host``, joins a pool."""
        refuse(self, "add_to_aggregate")

    @unfulfilled
    def remove_from_aggregate(self, context: Any, aggregate: Any, host: str, **kwargs: Any) -> None:
        """It leaves the pool."""
        refuse(self, "remove_from_aggregate")

    @unfulfilled
    def undo_aggregate_operation(
        self, context: Any, op: Callable[..., None], aggregate: Any, host: str, set_error: bool = True
    ) -> None:
        """Take back a failed join or leave with ``op``."""
        refuse(self, "undo_aggregate_operation")
