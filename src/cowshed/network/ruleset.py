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
import ipaddress
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Final

from cowshed.errors import InvalidRequest
from cowshed.model.group import Direction, Ethertype, GroupRule, Member
from cowshed.tools.nft import FAMILY, TABLE, Statement

HOUR: Final = 3600
TCP_IDLE: Final = 24 * HOUR  # seconds until a silent connection is forgotten; keep-alives come every 2 hours
TCP_CLOSING: Final = 60
IDLE: Final = 180  # of everything else
_PORTS: Final = ["tcp", "udp", "sctp", "dccp", "udplite"]
# Also the names that network services use (IANA's list of protocol numbers).
_NUMBERS: Final = {
    "icmp": 1,
    "igmp": 2,
    "ipip": 4,
    "tcp": 6,
    "egp": 8,
    "udp": 17,
    "dccp": 33,
    "ipv6-encap": 41,
    "ipv6-route": 43,
    "ipv6-frag": 44,
    "rsvp": 46,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "icmpv6": 58,
    "ipv6-icmp": 58,
    "ipv6-nonxt": 59,
    "ipv6-opts": 60,
    "ospf": 89,
    "vrrp": 112,
    "pgm": 113,
    "sctp": 132,
    "udplite": 136,
}


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
            "keep-out": list(_keep("daddr", "dport", "sport", self.key)),
            "keep-in": list(_keep("saddr", "sport", "dport", self.key)),
            "out": [*_honest(self), *_known("daddr", "dport", "sport", self.key), *self._allowed(Direction.EGRESS)],
            "in": [*_arriving(), *_known("saddr", "sport", "dport", self.key), *self._allowed(Direction.INGRESS)],
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
                for matches in _matches(rule, self.members):
                    yield _rule(*matches, {"goto": {"target": f"keep-{way}-{self.key}"}})


CHAINS: Final = (
    "keep-out",
    "keep-in",
    "out",
    "in",
)  # the first two have no hook, and are there before who goes to them
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


# --- words of nft ---------------------------------------------------------------------------------

DROP: Final = {"drop": None}
ACCEPT: Final = {"accept": None}


def _rule(*parts: Statement) -> Statement:
    return {"expr": list(parts)}


def _payload(protocol: str, name: str) -> Statement:
    return {"payload": {"protocol": protocol, "field": name}}


def _is(left: Statement, right: Any, op: str = "==") -> Statement:
    return {"match": {"op": op, "left": left, "right": right}}


def _in(left: Statement, items: Sequence[Any], op: str = "==") -> Statement:
    return _is(left, items[0] if len(items) == 1 else {"set": list(items)}, op)


def _meta(key: str) -> Statement:
    return {"meta": {"key": key}}


_IP: Final = _is(_meta("protocol"), "ip")
_IP6: Final = _is(_meta("protocol"), "ip6")
_IP_KINDS: Final = ((_IP, "ip", "4"), (_IP6, "ip6", "6"))


def _l4(protocol: str) -> Statement:
    return _is(_meta("l4proto"), protocol)


def _udp(source: int, target: int) -> list[Statement]:
    return [_l4("udp"), _is(_payload("udp", "sport"), source), _is(_payload("udp", "dport"), target)]


def _network(text: str) -> Any:
    """An address, or a network in nft's words."""
    found = ipaddress.ip_network(text, strict=False)
    if found.prefixlen == found.max_prefixlen:
        return str(found.network_address)
    return {"prefix": {"addr": str(found.network_address), "len": found.prefixlen}}


def _of_version(addresses: Sequence[str], version: int) -> list[Any]:
    """Without repetition or overlap, which nft refuses in a set."""
    found = [ipaddress.ip_network(one, strict=False) for one in addresses]
    if version == 4:
        return [_network(str(one)) for one in ipaddress.collapse_addresses(n for n in found if n.version == 4)]
    return [_network(str(one)) for one in ipaddress.collapse_addresses(n for n in found if n.version == 6)]


def _everything(addresses: Sequence[str], version: int) -> bool:
    """Is every address of this version among them? nft knows no network of all."""
    networks = [ipaddress.ip_network(one, strict=False) for one in addresses]
    return any(one.version == version and one.prefixlen == 0 for one in networks)


def link_local(address: str) -> str:
    """The IPv6 address that a MAC address makes on its link (RFC 4291, appendix A)."""
    octets = [int(octet, 16) for octet in address.split(":")]
    octets[0] ^= 2
    eui = bytes([*octets[:3], 0xFF, 0xFE, *octets[3:]])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + eui))


# --- what every interface keeps to ----------------------------------------------------------------


def _honest(wanted: Filter) -> Iterator[Statement]:
    """The guest speaks with its own addresses, and is no router, DHCP server or other one's neighbour."""
    ether, known = _payload("ether", "type"), wanted.addresses
    four, six = _of_version(known, 4), _of_version([*known, link_local(wanted.address)], 6)
    bound4, bound6 = (bool(known) and not _everything(known, version) for version in (4, 6))
    yield _rule(_is(ether, "@kinds", "!="), DROP)  # with a VLAN tag it is none of them
    yield _rule(_is(_payload("ether", "saddr"), wanted.address, "!="), DROP)
    yield _rule(_is(_payload("arp", "saddr ether"), wanted.address, "!="), DROP)
    if bound4:
        yield _rule(_in(_payload("arp", "saddr ip"), ["0.0.0.0", *four], "!="), DROP)  # noqa: S104 - asks who has it
    yield _rule(_is(_meta("protocol"), "arp"), ACCEPT)
    for kind, server, client in ((_IP, 67, 68), (_IP6, 547, 546)):
        yield _rule(kind, *_udp(server, client), DROP)
    source = _payload("ip", "saddr")
    if bound4:
        yield _rule(_in(source, ["0.0.0.0", *four]), *_udp(68, 67), ACCEPT)  # noqa: S104 - it has none yet
        yield _rule(_in(source, four, "!="), DROP) if four else _rule(_IP, DROP)
    else:
        yield _rule(_IP, *_udp(68, 67), ACCEPT)
    icmp = _payload("icmpv6", "type")
    yield _rule(_in(icmp, ["nd-router-advert", "nd-redirect", "mld-listener-query"]), DROP)
    source = _payload("ip6", "saddr")
    if bound6:
        # It asks from :: whether its address is free, and tells what it listens to.
        yield _rule(_is(source, "::"), _in(icmp, ["nd-neighbor-solicit", "nd-router-solicit", *_MLD]), ACCEPT)
        yield _rule(_in(source, six, "!="), DROP)
        targets = [_raw(one) for one in (*known, link_local(wanted.address)) if ":" in one and "/" not in one]
        target = {"payload": {"base": "th", "offset": 64, "len": 128}}
        networks = any(":" in one and "/" in one for one in known)
        if not networks:
            yield _rule(_is(icmp, "nd-neighbor-advert"), _in(target, targets, "!="), DROP)
    yield _rule(_IP6, *_udp(546, 547), ACCEPT)
    yield _rule(_in(icmp, ["nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert", *_MLD]), ACCEPT)


_MLD: Final = ["mld-listener-report", "mld-listener-done", "mld2-listener-report"]


def _raw(address: str) -> str:
    return hex(int(ipaddress.IPv6Address(address)))


def _arriving() -> Iterator[Statement]:
    """What a guest needs to be on a network at all."""
    yield _rule(_is(_payload("ether", "type"), "@kinds", "!="), DROP)
    yield _rule(_is(_meta("protocol"), "arp"), ACCEPT)
    yield _rule(_IP, *_udp(67, 68), ACCEPT)
    yield _rule(_IP6, *_udp(547, 546), ACCEPT)
    kinds = ["nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert", "mld-listener-query"]
    yield _rule(_in(_payload("icmpv6", "type"), kinds), ACCEPT)
    # The network says that something did not arrive; without it no path's MTU is found.
    errors = ["destination-unreachable", "time-exceeded", "parameter-problem"]
    yield _rule(_in(_payload("icmp", "type"), errors), ACCEPT)
    yield _rule(_in(_payload("icmpv6", "type"), ["packet-too-big", *errors]), ACCEPT)


# --- what has passed before -----------------------------------------------------------------------


def _flow(ip: str, other: str, theirs: str, ours: str) -> Statement:
    parts = [_payload(ip, other), _meta("l4proto"), _payload("th", theirs), _payload("th", ours)]
    return {"concat": parts}


def _peer(ip: str, other: str) -> Statement:
    return {"concat": [_payload(ip, other), _meta("l4proto")]}


def _note(set_name: str, element: Statement, timeout: int) -> Statement:
    return {"set": {"op": "update", "elem": {"elem": {"val": element, "timeout": timeout}}, "set": f"@{set_name}"}}


_REPLIES: Final = (
    ("icmp", ["echo-reply", "timestamp-reply"]),
    ("icmpv6", ["echo-reply"]),
)
_FIN_OR_RST: Final = 0x05


def _known(other: str, theirs: str, ours: str, owner: str) -> Iterator[Statement]:
    """Answers, and the rest of what has begun. The parts of a packet that come after the first have no ports; they are
    of no use without the first one.
    """
    way = "out" if other == "daddr" else "in"
    yield _rule(_is({"&": [_payload("ip", "frag-off"), 0x1FFF]}, 0, "!="), ACCEPT)
    yield _rule(_is({"exthdr": {"name": "frag", "field": "frag-off"}}, 0, "!="), ACCEPT)
    for kind, ip, version in _IP_KINDS:
        known = _is(_flow(ip, other, theirs, ours), f"@flows{version}-{owner}")
        yield _rule(kind, _l4("@ports"), known, {"goto": {"target": f"keep-{way}-{owner}"}})
    for (_, ip, version), (icmp, kinds) in zip(_IP_KINDS, _REPLIES, strict=True):
        known = _is(_peer(ip, other), f"@peers{version}-{owner}")
        yield _rule(_in(_payload(icmp, "type"), kinds), known, ACCEPT)
        yield _rule(_is(_meta("l4proto"), "@icmps", "!="), known, ACCEPT)


def _keep(other: str, theirs: str, ours: str, owner: str) -> Iterator[Statement]:
    """Notes what passes. Where a set is full the packet passes all the same."""
    for kind, ip, version in _IP_KINDS:
        flow, peers = _flow(ip, other, theirs, ours), f"peers{version}-{owner}"
        flows = f"flows{version}-{owner}"
        ending = _is({"&": [_payload("tcp", "flags"), _FIN_OR_RST]}, 0, "!=")
        yield _rule(kind, ending, _note(flows, flow, TCP_CLOSING), ACCEPT)
        yield _rule(kind, _l4("tcp"), _note(flows, flow, TCP_IDLE), ACCEPT)
        yield _rule(kind, _l4("@shortlived"), _note(flows, flow, IDLE), ACCEPT)
        yield _rule(kind, _is(_meta("l4proto"), "@ports", "!="), _note(peers, _peer(ip, other), IDLE), ACCEPT)
    yield _rule(ACCEPT)


# --- groups ---------------------------------------------------------------------------------------


def _matches(rule: GroupRule, members: Mapping[str, Sequence[Member]]) -> Iterator[list[Statement]]:
    """One list of matches for each nft rule that ``rule`` needs; none where its group has no members."""
    six = rule.ethertype == Ethertype.IPV6
    ip, side = ("ip6" if six else "ip"), ("saddr" if rule.direction == Direction.INGRESS else "daddr")
    rest = [_IP6 if six else _IP, *_protocol(rule, six)]
    if not rule.group:
        every = rule.cidr in ("", "0.0.0.0/0", "::/0")
        yield rest if every else [*rest, _is(_payload(ip, side), _network(rule.cidr))]
        return
    found = members.get(rule.group, ())
    if addresses := _of_version([one for member in found for one in member.addresses], 6 if six else 4):
        yield [*rest, _in(_payload(ip, side), addresses)]
    if macs := sorted({member.address for member in found if not member.addresses}):
        yield [*rest, _in(_payload("ether", side), macs)]


def _protocol(rule: GroupRule, six: bool) -> Iterator[Statement]:
    word = rule.protocol.lower()
    if not word or word == "any":
        return
    number = int(word) if word.isdigit() else _NUMBERS.get(word, -1)
    if not 0 <= number <= 255:
        raise InvalidRequest(reason=f"{rule.protocol!r} is not a protocol")
    if number == 1 and six:
        number = 58  # ICMP is meant to be that of its version
    yield _is(_meta("l4proto"), number)
    if number in (1, 58):
        icmp = "icmp" if number == 1 else "icmpv6"
        if rule.port_min is not None:
            yield _is(_payload(icmp, "type"), rule.port_min)
        if rule.port_max is not None:
            yield _is(_payload(icmp, "code"), rule.port_max)
    elif rule.port_min is not None or rule.port_max is not None:
        low = rule.port_min if rule.port_min is not None else rule.port_max
        high = rule.port_max if rule.port_max is not None else rule.port_min
        yield _is(_payload("th", "dport"), low if low == high else {"range": [low, high]})
