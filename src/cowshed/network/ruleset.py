"""The packet filter of one device in nft's words: a pure function.

The chains hang on the device itself (family netdev), and not on a bridge: whatever the device is a port of (a Linux
bridge, one of libvirt's, Open vSwitch, nothing), every packet from the guest passes its ``ingress`` hook and every
packet to the guest its ``egress`` hook. With a macvtap device it is the other way round. Nobody else's packets do.

The kernel's connection tracking is not to be had there. What passes by a rule is noted in sets of the device
instead, and its answers pass by them. The sets belong to one device, so no guest can exhaust a table that others
need, and they outlive a change of the rules, so connections do too. They are made without a size: a rule that adds
to such a set bounds it to 65535 elements (linux/nft_dynset.c), while a size that is given has the kernel keep 2 MiB
ready for each, empty or not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from cowshed.model.group import Direction, GroupRule, Member
from cowshed.network import groups
from cowshed.network.match import statement
from cowshed.network.rules import IDLE, arriving, honest, keep, known
from cowshed.tools.nft import FAMILY, TABLE, Statement

_PORTS: Final = ["tcp", "udp", "sctp", "dccp", "udplite"]


@dataclass(frozen=True)
class Filter:
    """What one device lets through.

    :param owner: the id of the interface
    :param address: its MAC address
    :param addresses: the only IP addresses (or networks) it may use; empty: they are not known, and any will do
    :param shares: it is a macvtap device
    :param members: of each group that a rule names
    """

    device: str
    owner: str
    address: str
    addresses: tuple[str, ...] = ()
    rules: tuple[GroupRule, ...] = ()
    members: Mapping[str, Sequence[Member]] = field(default_factory=dict)
    shares: bool = False

    @property
    def key(self) -> str:
        return key(self.owner)

    @cached_property
    def chains(self) -> dict[str, list[Statement]]:
        """The rules of each chain, in order; the keys are those of :data:`CHAINS`.

        :raises InvalidRequest: a rule names no protocol
        """
        return {
            "keep-out": list(keep("daddr", "dport", "sport", self.key)),
            "keep-in": list(keep("saddr", "sport", "dport", self.key)),
            "out": [
                *honest(self.address, self.addresses),
                *known("daddr", "dport", "sport", self.key),
                *self._allowed(Direction.EGRESS),
            ],
            "in": [
                *arriving(),
                *known("saddr", "sport", "dport", self.key),
                *self._allowed(Direction.INGRESS),
            ],
        }

    def hook(self, chain: str) -> str:
        return "ingress" if (chain == "out") != self.shares else "egress"

    @cached_property
    def comments(self) -> dict[str, list[str]]:
        """Of the rules of each chain: they name the whole filter, and each rule's place in it."""
        digest = self.digest()
        return {
            name: [f"{digest} {number}/{len(rules)} {self.device}" for number in range(1, len(rules) + 1)]
            for name, rules in self.chains.items()
        }

    def digest(self) -> str:
        """Names exactly these rules on exactly this device."""
        text = json.dumps([self.device, self.shares, self.chains], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _allowed(self, direction: Direction) -> Iterator[Statement]:
        way = "in" if direction == Direction.INGRESS else "out"
        for rule in self.rules:
            if rule.direction == direction:
                for matches in groups.matches(rule, self.members):
                    yield statement(*matches, {"goto": {"target": f"keep-{way}-{self.key}"}})


# The first two have no hook, and are there before who goes to them.
CHAINS: Final = ("keep-out", "keep-in", "out", "in")
BASE: Final = ("out", "in")
SETS: Final[Mapping[str, list[str]]] = {
    "flows4": ["ipv4_addr", "inet_proto", "inet_service", "inet_service"],
    "flows6": ["ipv6_addr", "inet_proto", "inet_service", "inet_service"],
    "peers4": ["ipv4_addr", "inet_proto"],
    "peers6": ["ipv6_addr", "inet_proto"],
}


# The rules of all interfaces share these sets. What stands in a rule itself is a nameless set of that rule, and the
# kernel looks through all sets of the table to name one. Once a rule uses them nobody can change them.
CONSTANTS: Final[Mapping[str, tuple[str, list[str]]]] = {
    "kinds": ("ether_type", ["ip", "ip6", "arp"]),
    "ports": ("inet_proto", _PORTS),
    "shortlived": ("inet_proto", _PORTS[1:]),  # without TCP's connections
    "icmps": ("inet_proto", ["icmp", "ipv6-icmp"]),
}


def key(owner: str) -> str:
    """Names the chains and sets of an interface."""
    return hashlib.sha256(owner.encode()).hexdigest()[:12]


# --- commands -------------------------------------------------------------------------------------


def create(wanted: Filter, *, present: frozenset[str], stale: bool) -> Iterator[Statement]:
    """Puts ``wanted`` in force, in place of what there is of it.

    :param present: the kinds of its chains and sets that are there; sets are kept with what they remember
    :param stale: they hang on another device, or in the wrong place
    """
    for name, types in SETS.items():
        if name in present:
            continue
        fields = {"type": types, "flags": ["timeout"], "timeout": IDLE}
        yield {"add": {"set": _named(f"{name}-{wanted.key}", **fields)}}
    yield from remove_chains(wanted.key, present & set(BASE) if stale else frozenset())
    for name in CHAINS:
        hook = {}
        if name in BASE:
            hook = {"type": "filter", "hook": wanted.hook(name), "prio": 0, "dev": wanted.device, "policy": "drop"}
        yield {"add": {"chain": _named(f"{name}-{wanted.key}", **hook)}}
        yield {"flush": {"chain": _named(f"{name}-{wanted.key}")}}
    for name, rules in wanted.chains.items():
        for comment, rule in zip(wanted.comments[name], rules, strict=True):
            place = {"family": FAMILY, "table": TABLE, "chain": f"{name}-{wanted.key}"}
            yield {"add": {"rule": {**place, "comment": comment, **rule}}}


def remove_chains(owner_key: str, present: frozenset[str]) -> Iterator[Statement]:
    ordered = [name for name in reversed(CHAINS) if name in present]
    yield from ({"flush": {"chain": _named(f"{name}-{owner_key}")}} for name in ordered)
    yield from ({"delete": {"chain": _named(f"{name}-{owner_key}")}} for name in ordered)


def remove_sets(owner_key: str, present: frozenset[str]) -> Iterator[Statement]:
    yield from ({"delete": {"set": _named(f"{name}-{owner_key}")}} for name in SETS if name in present)


def prepare(present: frozenset[str]) -> Iterator[Statement]:
    """The table, and those of its :data:`CONSTANTS` that are not ``present``."""
    yield {"add": {"table": {"family": FAMILY, "name": TABLE}}}
    for name, (kind, elements) in CONSTANTS.items():
        if name not in present:
            yield {"add": {"set": _named(name, type=kind, flags=["constant"], elem=elements)}}


def _named(name: str, **more: Any) -> Statement:
    return {"family": FAMILY, "table": TABLE, "name": name, **more}
