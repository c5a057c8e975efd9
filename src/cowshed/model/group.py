"""Security groups: which packets the interfaces of their members let through. What no rule allows is dropped."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Direction(StrEnum):
    """As the guest sees it: ``ingress`` comes to it, ``egress`` leaves it."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Ethertype(StrEnum):
    IPV4 = "IPv4"
    IPV6 = "IPv6"


@dataclass(frozen=True, slots=True)
class GroupRule:
    """Lets packets through, and the answers to them.

    ``protocol`` is ``tcp``, ``udp``, ``sctp``, ``icmp``, ``icmpv6``, a number, or "" for any. The ports are those of
    the one who answers, both ends included; for ICMP they are type and code. ``cidr`` is the other side, ""
    anybody; or ``group``: the members of that group.
    """

    direction: Direction
    ethertype: Ethertype = Ethertype.IPV4
    protocol: str = ""
    port_min: int | None = None
    port_max: int | None = None
    cidr: str = ""
    group: str = ""
    id: str = ""


@dataclass(frozen=True, slots=True)
class SecurityGroup:
    """Rules that are given to ports under one name."""

    id: str
    name: str = ""
    rules: tuple[GroupRule, ...] = ()
    description: str = ""


@dataclass(frozen=True, slots=True)
class Member:
    """An interface in a group. Without known ``addresses`` it is told by its MAC ``address``, on its own link only."""

    address: str
    addresses: tuple[str, ...] = ()
