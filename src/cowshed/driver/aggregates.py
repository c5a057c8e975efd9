"""Aggregates: which pools this host is a member of, and what they say about it.

libvirt has no pools. What can be kept truly is the membership: a record of the host, shown by
``cowshed host show`` and read by whoever places instances. Anything a pool would do beyond that
(sharing storage, a common processor) is not pretended.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

from cowshed import log
from cowshed.contract.aggregates import Aggregates as AggregatesContract
from cowshed.driver.rooms import Rooms
from cowshed.errors import DataCorrupt, InvalidRequest, UnsupportedOperation

_log = log.logger(__name__)

FILE: Final = "aggregates.json"


class Aggregates(AggregatesContract):
    rooms: Rooms

    def add_to_aggregate(self, context: Any, aggregate: Any, host: str, **kwargs: Any) -> None:
        """Already a member is success.

        :raises UnsupportedOperation: ``host`` is another host; only it can record its membership
        """
        self._check_ours(host)
        found = self.aggregates()
        found[_key(aggregate)] = {"name": _of(aggregate, "name", ""), "metadata": dict(_of(aggregate, "metadata", {}))}
        self._save(found)

    def remove_from_aggregate(self, context: Any, aggregate: Any, host: str, **kwargs: Any) -> None:
        """Not a member is success."""
        self._check_ours(host)
        found = self.aggregates()
        if found.pop(_key(aggregate), None) is not None:
            self._save(found)

    def undo_aggregate_operation(
        self, context: Any, op: Callable[..., None], aggregate: Any, host: str, set_error: bool = True
    ) -> None:
        """What fails on the way back is logged: the pool is marked broken then, whatever ``set_error`` says."""
        try:
            op(host)
        except Exception:  # noqa: BLE001 - somebody's call-back; the first error is the caller's already
            _log.exception("could not take back the change of aggregate %s", _key(aggregate))
            set_error = True
        if set_error and hasattr(aggregate, "update_metadata"):
            aggregate.update_metadata({"operational_state": "error"})

    def aggregates(self) -> dict[str, dict[str, Any]]:
        """Pools this host is a member of: id to ``name`` and ``metadata``.

        :raises DataCorrupt: the record cannot be read
        """
        path = self.rooms.facts / FILE
        try:
            return dict(json.loads(path.read_text()))
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError) as error:
            raise DataCorrupt(path=path, reason=str(error)) from error

    def _save(self, found: dict[str, dict[str, Any]]) -> None:
        from cowshed.tools import filesystem

        filesystem.make_directory(self.rooms.facts)
        filesystem.write_atomically(self.rooms.facts / FILE, json.dumps(found, sort_keys=True).encode())

    def _check_ours(self, host: str) -> None:
        ours = self.rooms.hypervisor.hostname()
        if host not in (ours, ours.partition(".")[0]):
            raise UnsupportedOperation(
                subject=f"host {ours}", operation=f"record the membership of {host}", reason="it is another host"
            )


def _key(aggregate: Any) -> str:
    """:raises InvalidRequest: it has no id"""
    if (found := _of(aggregate, "id", None)) is None:
        raise InvalidRequest(reason="an aggregate needs an id")
    return str(found)


def _of(aggregate: Any, name: str, default: Any) -> Any:
    found = aggregate.get(name) if hasattr(aggregate, "get") else getattr(aggregate, name, None)
    return default if found is None else found
