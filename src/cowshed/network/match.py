"""Words of nft: what a rule of a filter looks at, as JSON."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Any, Final

from cowshed.tools.nft import Statement

DROP: Final = {"drop": None}
ACCEPT: Final = {"accept": None}


def statement(*parts: Statement) -> Statement:
    """A rule: matches, and what becomes of a packet that all of them fit."""
    return {"expr": list(parts)}


def payload(protocol: str, name: str) -> Statement:
    return {"payload": {"protocol": protocol, "field": name}}


def equals(left: Statement, right: Any, op: str = "==") -> Statement:
    return {"match": {"op": op, "left": left, "right": right}}


def among(left: Statement, items: Sequence[Any], op: str = "==") -> Statement:
    return equals(left, items[0] if len(items) == 1 else {"set": list(items)}, op)


def meta(key: str) -> Statement:
    return {"meta": {"key": key}}


IP: Final = equals(meta("protocol"), "ip")
IP6: Final = equals(meta("protocol"), "ip6")
IP_KINDS: Final = ((IP, "ip", "4"), (IP6, "ip6", "6"))


def l4(protocol: str) -> Statement:
    return equals(meta("l4proto"), protocol)


def udp(source: int, target: int) -> list[Statement]:
    return [l4("udp"), equals(payload("udp", "sport"), source), equals(payload("udp", "dport"), target)]


def network(text: str) -> Any:
    """An address, or a network in nft's words."""
    found = ipaddress.ip_network(text, strict=False)
    if found.prefixlen == found.max_prefixlen:
        return str(found.network_address)
    return {"prefix": {"addr": str(found.network_address), "len": found.prefixlen}}


def of_version(addresses: Sequence[str], version: int) -> list[Any]:
    """Without repetition or overlap, which nft refuses in a set."""
    found = [ipaddress.ip_network(one, strict=False) for one in addresses]
    if version == 4:
        return [network(str(one)) for one in ipaddress.collapse_addresses(n for n in found if n.version == 4)]
    return [network(str(one)) for one in ipaddress.collapse_addresses(n for n in found if n.version == 6)]


def covers_all(addresses: Sequence[str], version: int) -> bool:
    """Is every address of this version among them? nft knows no network of all."""
    networks = [ipaddress.ip_network(one, strict=False) for one in addresses]
    return any(one.version == version and one.prefixlen == 0 for one in networks)
