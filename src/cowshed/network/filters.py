"""The packet filters of this host: put in force in one transaction, read back, taken away."""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from cowshed import log
from cowshed.errors import ToolFailed
from cowshed.network import ruleset
from cowshed.network.ruleset import Filter
from cowshed.tools import nft
from cowshed.tools.nfnetlink import Chain, Connection

_log = log.logger(__name__)

_ATTEMPTS = 3  # another process may change the table between a look and a transaction


@dataclass(frozen=True, slots=True)
class _Seen:
    """What the kernel has of one interface: its chains by kind, the comments of their rules in order, and its sets."""

    chains: Mapping[str, Chain] = field(default_factory=dict)
    comments: Mapping[str, list[str]] = field(default_factory=dict)
    sets: frozenset[str] = frozenset()

    @property
    def present(self) -> frozenset[str]:
        return frozenset(self.chains) | self.sets

    def is_whole(self, wanted: Filter) -> bool:
        """Exactly the rules of ``wanted``, in their order: comments name them, and nothing of them can be changed."""
        return (
            self.sets == set(ruleset.SETS)
            and set(self.chains) == set(ruleset.CHAINS)
            and self.comments == wanted.comments
            and not self.is_stale(wanted)
            and self._drops
        )

    def is_filtered(self, wanted: Filter) -> bool:
        """By whatever rules: nothing passes its device that some filter of it does not let through."""
        return set(ruleset.BASE) <= set(self.chains) and not self.is_stale(wanted) and self._drops

    @property
    def _drops(self) -> bool:
        return all(self.chains[name].policy == "drop" for name in ruleset.BASE)

    def is_stale(self, wanted: Filter) -> bool:
        """It hangs on another device, or on the other hook."""
        return any(
            (chain.hook, chain.devices) != (wanted.hook(name), (wanted.device,))
            for name, chain in self.chains.items()
            if name in ruleset.BASE
        )


@dataclass(frozen=True, slots=True)
class _Collected:
    """What an interface shall have (None: nothing), and what it had by then."""

    wanted: Filter | None
    seen: _Seen

    def is_outrun(self, now: _Seen) -> bool:
        """Somebody else has filtered it since, by a plan that was made later (see ``driver/steps/filter_order``). A device
        that went has taken its chains with it, which is no plan of anybody.
        """
        return set(ruleset.BASE) <= set(now.chains) and now != self.seen


class Filters:
    """One a process. Calls of several threads, and of several processes, do not disturb each other."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._deferred: dict[str, _Collected] | None = None

    def ensure(self, wanted: Iterable[Filter]) -> None:
        """On return all of them are in force, together. What is in force already is left alone. While changes are
        collected, an interface that is filtered keeps its filter until then; one that is not gets its own at once.

        :raises ToolFailed: the kernel refuses, or does not have them afterwards :raises PermissionDenied:
        """
        self._change({one.key: one for one in wanted})

    def remove(self, owners: Iterable[str]) -> None:
        """Of the interfaces with these ids; none is success."""
        self._change({ruleset.key(owner): None for owner in owners})

    def known(self) -> set[str]:
        """The keys of all interfaces of which the kernel has anything, also what a filter has left."""
        return _all_keys()

    def sweep(self, owners: Collection[str], among: Collection[str] | None = None) -> list[str]:
        """Remove all filters but those of the interfaces with these ids; returns the keys of what went.

        :param among: what was :meth:`known` before ``owners`` were looked for: a filter that came later stays
        """
        keys = {ruleset.key(owner) for owner in owners}
        gone = sorted((_all_keys() if among is None else set(among)) - keys)
        self._transact(dict.fromkeys(gone))
        return gone

    def in_force(self) -> set[str]:
        """The keys (:func:`ruleset.key`) of the interfaces that are filtered."""
        with nft.kernel() as kernel:
            names = {chain.name for chain in kernel.chains()}
        return {
            key for kind, _, key in (name.rpartition("-") for name in names) if kind == "in" and f"out-{key}" in names
        }

    # --- many at once -------------------------------------------------------------------------

    def defer(self) -> None:
        """Collect changes from now on."""
        with self._lock:
            if self._deferred is None:
                self._deferred = {}

    def apply_deferred(self) -> None:
        """Put what was collected in force, where nobody else has put something newer in force since. What cannot be is
        kept, for another try.
        """
        with self._lock:
            if self._deferred:
                now = _look(self._deferred)
                self._transact({key: one.wanted for key, one in self._deferred.items() if not one.is_outrun(now[key])})
            self._deferred = None

    def _change(self, changes: Mapping[str, Filter | None]) -> None:
        with self._lock:
            now = dict(changes)
            if self._deferred is not None:
                seen = _look(changes)
                now = {key: one for key, one in changes.items() if one and not seen[key].is_filtered(one)}
                self._deferred.update(
                    {key: _Collected(one, seen[key]) for key, one in changes.items() if key not in now}
                )
            if now:
                self._transact(now)
                if self._deferred:
                    self._deferred = {key: one for key, one in self._deferred.items() if key not in now}

    # --- one transaction ----------------------------------------------------------------------

    def _transact(self, changes: Mapping[str, Filter | None]) -> None:
        for attempt in range(1, _ATTEMPTS + 1):
            commands = _commands(changes, _look(changes))
            if not commands:
                return
            try:
                nft.apply([*ruleset.prepare(_constants()), *commands])
            except ToolFailed as error:
                if attempt == _ATTEMPTS:
                    raise
                _log.debug("the table has changed meanwhile, or the kernel refuses: %s", error)
        if left := _commands(changes, _look(changes)):
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
    return found


def _look(keys: Iterable[str]) -> dict[str, _Seen]:
    """Costs what these interfaces have, however many others there are."""
    with nft.kernel() as kernel:
        return {key: _seen(kernel, key) for key in keys}


def _seen(kernel: Connection, key: str) -> _Seen:
    found = {kind: kernel.chain(f"{kind}-{key}") for kind in ruleset.CHAINS}
    return _Seen(
        {kind: chain for kind, chain in found.items() if chain},
        {kind: kernel.comments(chain.name) for kind, chain in found.items() if chain},
        frozenset(name for name in ruleset.SETS if kernel.has_set(f"{name}-{key}")),
    )


def _constants() -> frozenset[str]:
    with nft.kernel() as kernel:
        return frozenset(name for name in ruleset.CONSTANTS if kernel.has_constant(name))


def _all_keys() -> set[str]:
    with nft.kernel() as kernel:
        names = [*(chain.name for chain in kernel.chains()), *kernel.sets()]
    return {name.rpartition("-")[2] for name in names if name not in ruleset.CONSTANTS}
