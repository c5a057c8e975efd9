"""Pools of hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from cowshed.contract.promise import refuse, unfulfilled


class Aggregates:
    """Pools of hosts."""

    @unfulfilled
    def add_to_aggregate(self, context: Any, aggregate: Any, host: str, **kwargs: Any) -> None:
        """This host, or ``host``, joins a pool of hosts.

        :param aggregate: the pool: ``id``, ``name``, ``hosts``, ``metadata``
        :param kwargs: what the pool's master needs of the joining host (``slave_info``)
        :raises UnsupportedOperation: the caller logs it and goes on: hypervisors without pools are fine
        :raises CowshedError: anything else makes the caller undo it (:meth:`undo_aggregate_operation`)
        """
        refuse(self, "add_to_aggregate")

    @unfulfilled
    def remove_from_aggregate(self, context: Any, aggregate: Any, host: str, **kwargs: Any) -> None:
        """This host, or ``host``, leaves a pool of hosts.

        Parameters and errors are those of :meth:`add_to_aggregate`.
        """
        refuse(self, "remove_from_aggregate")

    @unfulfilled
    def undo_aggregate_operation(
        self, context: Any, op: Callable[..., None], aggregate: Any, host: str, set_error: bool = True
    ) -> None:
        """Take back a join or leave that failed half-way.

        :param op: what takes it back; called with ``host``
        :param set_error: mark the pool as broken afterwards
        """
        refuse(self, "undo_aggregate_operation")
