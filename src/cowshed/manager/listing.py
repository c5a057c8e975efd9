"""What instances have, of one or of all."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

from cowshed import log
from cowshed.errors import CowshedError
from cowshed.manager.records import Record, Records

_log = log.logger(__name__)

T = TypeVar("T")


def of_each(records: Records, ref: str, what: str, ask: Callable[[Record], Iterable[T]]) -> list[tuple[Record, T]]:
    """Of the instance ``ref``; empty: of all, and one whose ``what`` cannot be told is logged and left out."""
    found: list[tuple[Record, T]] = []
    for record in [records.find(ref)] if ref else records.all():
        try:
            found += [(record, one) for one in ask(record)]
        except CowshedError as error:
            if ref:
                raise
            _log.warning("the %s of %s cannot be told: %s", what, record.name, error)
    return found
