"""What the filter of an interface lets through whatever its groups say, and the answers to what it has let through."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Final

from cowshed.network.match import (
    ACCEPT,
    DROP,
    IP,
    IP6,
    IP_KINDS,
    among,
    covers_all,
    equals,
    l4,
    meta,
    of_version,
    payload,
    statement,
    udp,
)
from cowshed.tools.nft import Statement

HOUR: Final = 3600
TCP_IDLE: Final = 24 * HOUR  # seconds until a silent connection is forgotten; keep-alives come every 2 hours
TCP_CLOSING: Final = 60
IDLE: Final = 180  # of everything else
_MLD: Final = ["mld-listener-report", "mld-listener-done", "mld2-listener-report"]


def link_local(address: str) -> str:
    """The IPv6 address that a MAC address makes on its link (RFC 4291, appendix A)."""
    octets = [int(octet, 16) for octet in address.split(":")]
    octets[0] ^= 2
    eui = bytes([*octets[:3], 0xFF, 0xFE, *octets[3:]])
    return str(ipaddress.IPv6Address(b"\xfe\x80" + bytes(6) + eui))


def honest(address: str, addresses: Sequence[str]) -> Iterator[Statement]:
    """The guest speaks with its own addresses, and is no router, DHCP server or other one's neighbour."""
    ether = payload("ether", "type")
    four, six = of_version(addresses, 4), of_version([*addresses, link_local(address)], 6)
    bound4, bound6 = (bool(addresses) and not covers_all(addresses, version) for version in (4, 6))
    yield statement(equals(ether, "@kinds", "!="), DROP)  # with a VLAN tag it is none of them
    yield statement(equals(payload("ether", "saddr"), address, "!="), DROP)
    yield statement(equals(payload("arp", "saddr ether"), address, "!="), DROP)
    if bound4:
        yield statement(among(payload("arp", "saddr ip"), ["0.0.0.0", *four], "!="), DROP)  # noqa: S104 - asks who has it
    yield statement(equals(meta("protocol"), "arp"), ACCEPT)
    for kind, server, client in ((IP, 67, 68), (IP6, 547, 546)):
        yield statement(kind, *udp(server, client), DROP)
    source = payload("ip", "saddr")
    if bound4:
        yield statement(among(source, ["0.0.0.0", *four]), *udp(68, 67), ACCEPT)  # noqa: S104 - it has none yet
        yield statement(among(source, four, "!="), DROP) if four else statement(IP, DROP)
    else:
        yield statement(IP, *udp(68, 67), ACCEPT)
    icmp = payload("icmpv6", "type")
    yield statement(among(icmp, ["nd-router-advert", "nd-redirect", "mld-listener-query"]), DROP)
    source = payload("ip6", "saddr")
    if bound6:
        # It asks from :: whether its address is free, and tells what it listens to.
        yield statement(equals(source, "::"), among(icmp, ["nd-neighbor-solicit", "nd-router-solicit", *_MLD]), ACCEPT)
        yield statement(among(source, six, "!="), DROP)
        targets = [_raw(one) for one in (*addresses, link_local(address)) if ":" in one and "/" not in one]
        target = {"payload": {"base": "th", "offset": 64, "len": 128}}
        networks = any(":" in one and "/" in one for one in addresses)
        if not networks:
            yield statement(equals(icmp, "nd-neighbor-advert"), among(target, targets, "!="), DROP)
    yield statement(IP6, *udp(546, 547), ACCEPT)
    yield statement(among(icmp, ["nd-router-solicit", "nd-neighbor-solicit", "nd-neighbor-advert", *_MLD]), ACCEPT)


def _raw(address: str) -> str:
    return hex(int(ipaddress.IPv6Address(address)))


def arriving() -> Iterator[Statement]:
    """What a guest needs to be on a network at all."""
    yield statement(equals(payload("ether", "type"), "@kinds", "!="), DROP)
    yield statement(equals(meta("protocol"), "arp"), ACCEPT)
    yield statement(IP, *udp(67, 68), ACCEPT)
    yield statement(IP6, *udp(547, 546), ACCEPT)
    kinds = ["nd-router-advert", "nd-neighbor-solicit", "nd-neighbor-advert", "mld-listener-query"]
    yield statement(among(payload("icmpv6", "type"), kinds), ACCEPT)
    # The network says that something did not arrive; without it no path's MTU is found.
    errors = ["destination-unreachable", "time-exceeded", "parameter-problem"]
    yield statement(among(payload("icmp", "type"), errors), ACCEPT)
    yield statement(among(payload("icmpv6", "type"), ["packet-too-big", *errors]), ACCEPT)


# --- what has passed before -----------------------------------------------------------------------


def _flow(ip: str, other: str, theirs: str, ours: str) -> Statement:
    parts = [payload(ip, other), meta("l4proto"), payload("th", theirs), payload("th", ours)]
    return {"concat": parts}


def _peer(ip: str, other: str) -> Statement:
    return {"concat": [payload(ip, other), meta("l4proto")]}


def _note(set_name: str, element: Statement, timeout: int) -> Statement:
    return {"set": {"op": "update", "elem": {"elem": {"val": element, "timeout": timeout}}, "set": f"@{set_name}"}}


_REPLIES: Final = (
    ("icmp", ["echo-reply", "timestamp-reply"]),
    ("icmpv6", ["echo-reply"]),
)
_FIN_OR_RST: Final = 0x05


def known(other: str, theirs: str, ours: str, owner: str) -> Iterator[Statement]:
    """Answers, and the rest of what has begun. The parts of a packet that come after the first have no ports; they are
    of no use without the first one.
    """
    way = "out" if other == "daddr" else "in"
    yield statement(equals({"&": [payload("ip", "frag-off"), 0x1FFF]}, 0, "!="), ACCEPT)
    yield statement(equals({"exthdr": {"name": "frag", "field": "frag-off"}}, 0, "!="), ACCEPT)
    for kind, ip, version in IP_KINDS:
        seen = equals(_flow(ip, other, theirs, ours), f"@flows{version}-{owner}")
        yield statement(kind, l4("@ports"), seen, {"goto": {"target": f"keep-{way}-{owner}"}})
    for (_, ip, version), (icmp, kinds) in zip(IP_KINDS, _REPLIES, strict=True):
        seen = equals(_peer(ip, other), f"@peers{version}-{owner}")
        yield statement(among(payload(icmp, "type"), kinds), seen, ACCEPT)
        yield statement(equals(meta("l4proto"), "@icmps", "!="), seen, ACCEPT)


def keep(other: str, theirs: str, ours: str, owner: str) -> Iterator[Statement]:
    """Notes what passes. Where a set is full the packet passes all the same."""
    for kind, ip, version in IP_KINDS:
        flow, peers = _flow(ip, other, theirs, ours), f"peers{version}-{owner}"
        flows = f"flows{version}-{owner}"
        ending = equals({"&": [payload("tcp", "flags"), _FIN_OR_RST]}, 0, "!=")
        yield statement(kind, ending, _note(flows, flow, TCP_CLOSING), ACCEPT)
        yield statement(kind, l4("tcp"), _note(flows, flow, TCP_IDLE), ACCEPT)
        yield statement(kind, l4("@shortlived"), _note(flows, flow, IDLE), ACCEPT)
        yield statement(kind, equals(meta("l4proto"), "@ports", "!="), _note(peers, _peer(ip, other), IDLE), ACCEPT)
    yield statement(ACCEPT)
