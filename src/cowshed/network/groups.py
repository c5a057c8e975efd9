"""The rules of security groups in nft's words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from cowshed.errors import InvalidRequest
from cowshed.model.group import Direction, Ethertype, GroupRule, Member
from cowshed.network.match import IP, IP6, among, equals, meta, network, of_version, payload
from cowshed.tools.nft import Statement

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


def matches(rule: GroupRule, members: Mapping[str, Sequence[Member]]) -> Iterator[list[Statement]]:
    """One list of matches for each nft rule that ``rule`` needs; none where its group has no members."""
    six = rule.ethertype == Ethertype.IPV6
    ip, side = ("ip6" if six else "ip"), ("saddr" if rule.direction == Direction.INGRESS else "daddr")
    rest = [IP6 if six else IP, *_protocol(rule, six)]
    if not rule.group:
        every = rule.cidr in ("", "0.0.0.0/0", "::/0")
        yield rest if every else [*rest, equals(payload(ip, side), network(rule.cidr))]
        return
    found = members.get(rule.group, ())
    if addresses := of_version([one for member in found for one in member.addresses], 6 if six else 4):
        yield [*rest, among(payload(ip, side), addresses)]
    if macs := sorted({member.address for member in found if not member.addresses}):
        yield [*rest, among(payload("ether", side), macs)]


def _protocol(rule: GroupRule, six: bool) -> Iterator[Statement]:
    word = rule.protocol.lower()
    if not word or word == "any":
        return
    number = int(word) if word.isdigit() else _NUMBERS.get(word, -1)
    if not 0 <= number <= 255:
        raise InvalidRequest(reason=f"{rule.protocol!r} is not a protocol")
    if number == 1 and six:
        number = 58  # ICMP is meant to be that of its version
    yield equals(meta("l4proto"), number)
    if number in (1, 58):
        icmp = "icmp" if number == 1 else "icmpv6"
        if rule.port_min is not None:
            yield equals(payload(icmp, "type"), rule.port_min)
        if rule.port_max is not None:
            yield equals(payload(icmp, "code"), rule.port_max)
    elif rule.port_min is not None or rule.port_max is not None:
        low = rule.port_min if rule.port_min is not None else rule.port_max
        high = rule.port_max if rule.port_max is not None else rule.port_min
        yield equals(payload("th", "dport"), low if low == high else {"range": [low, high]})
