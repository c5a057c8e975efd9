"""The packet filters of this host: put in force in one transaction, read back, taken away."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from cowshed import log
from cowshed.errors import ToolFailed
from cowshed.network import ruleset
from cowshed.network.ruleset import Filter
from cowshed.tools import nft

_log = log.logger(__name__)

_ATTEMPTS = 3  # another process may change the table between a look and a transaction


@dataclass(slots=True)
class _Seen:
    """What the kernel has of one interface: the comments of the rules of each chain, in order, and its sets."""

    chains: dict[str, list[str]] = field(default_factory=dict)
    sets: set[str] = field(default_factory=set)

    @property
    def present(self) -> frozenset[str]:
        return frozenset(self.chains) | frozenset(self.sets)

    def is_whole(self, wanted: Filter) -> bool:
        """Exactly the rules of ``wanted``, in their order: comments name them, and nothing of them can be changed."""
        digest = wanted.digest()
        return self.sets >= set(ruleset.SETS) and self.chains == {
            name: [f"{digest} {number}/{len(rules)} {wanted.device}" for number in range(1, len(rules) + 1)]
            for name, rules in wanted.chains().items()
        }

    def is_stale(self, wanted: Filter) -> bool:
        """It hangs on another device, on the other hook, or nobody knows on which."""
        places = {comment.rpartition(" ")[2] for name in ruleset.BASE for comment in self.chains.get(name, [])}
        return places != {wanted.device}


class Filters:
    """One a process. Calls of several threads, and of several processes, do not disturb each other."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._deferred: dict[str, Filter | None] | None = None

    def ensure(self, wanted: Iterable[Filter]) -> None:
        """On return all of them are in force, together. What is in force already is left alone.

        :raises ToolFailed: the kernel refuses, or does not have them afterwards :raises PermissionDenied:
        """
        self._change({one.key: one for one in wanted})

    def remove(self, owners: Iterable[str]) -> None:
        """Of the interfaces with these ids; none is success."""
        self._change({ruleset.key(owner): None for owner in owners})

    def sweep(self, owners: Collection[str]) -> list[str]:
        """Remove all filters but those of the interfaces with these ids; returns the keys of what went."""
        keys = {ruleset.key(owner) for owner in owners}
        gone = sorted(key for key in _look() if key not in keys)
        self._transact(dict.fromkeys(gone))
        return gone

    def in_force(self) -> set[str]:
        """The keys (:func:`ruleset.key`) of the interfaces that are filtered."""
        return {key for key, seen in _look().items() if set(ruleset.BASE) <= set(seen.chains)}

    # --- many at once -------------------------------------------------------------------------

    def defer(self) -> None:
        """Collect changes from now on."""
        with self._lock:
            if self._deferred is None:
                self._deferred = {}

    def apply_deferred(self) -> None:
        """Put what was collected in force. What cannot be is kept, for another try."""
        with self._lock:
            if self._deferred:
                self._transact(self._deferred)
            self._deferred = None

    def _change(self, changes: Mapping[str, Filter | None]) -> None:
        with self._lock:
            if self._deferred is not None:
                self._deferred.update(changes)
            elif changes:
                self._transact(changes)

    # --- one transaction ----------------------------------------------------------------------

    def _transact(self, changes: Mapping[str, Filter | None]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            commands = _commands(changes, _look())
            if not commands:
                return
            try:
                nft.apply(commands)
            except ToolFailed as error:
                if attempt == _ATTEMPTS:
                    raise
                _log.debug("the table has changed meanwhile, or the kernel refuses: %s", error)
        if left := _commands(changes, _look()):
            raise ToolFailed(
                command="nft -j -f -",
                status=0,
                output=f"it said yes, and {len(left)} things are not as they were to be",
            )


def _commands(changes: Mapping[str, Filter | None], seen: Mapping[str, _Seen]) -> list[nft.Statement]:
    """What must be done; empty when all is as it is to be."""
    found: list[nft.Statement] = []
    for key, wanted in changes.items():
        now = seen.get(key, _Seen())
        if wanted is None:
            found += ruleset.remove_chains(key, now.present)
            found += ruleset.remove_sets(key, now.present)
        elif not now.is_whole(wanted):
            found += ruleset.create(wanted, present=now.present, stale=bool(now.chains) and now.is_stale(wanted))
    return [ruleset.make_table(), *found] if found else []


def _look() -> dict[str, _Seen]:
    found: defaultdict[str, _Seen] = defaultdict(_Seen)
    for one in nft.table():
        if "chain" in one:
            kind, _, key = one["chain"]["name"].rpartition("-")
            found[key].chains.setdefault(kind, [])
        elif "set" in one:
            kind, _, key = one["set"]["name"].rpartition("-")
            found[key].sets.add(kind)
        elif "rule" in one:
            kind, _, key = one["rule"]["chain"].rpartition("-")
            found[key].chains.setdefault(kind, []).append(str(one["rule"].get("comment", "")))
    return dict(found)
