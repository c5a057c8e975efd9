"""Which addresses a download may connect to, and where a redirect may lead.

A server on the internet must not send us to services that only this host or its network can reach
(its loopback services, a cloud's metadata service). So addresses have a rank, and a redirect never
leads to a higher one than that of the server the user named.
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum
from typing import Final

_NAT64: Final = ipaddress.IPv6Network("64:ff9b::/96")
_LOW_32: Final = (1 << 32) - 1

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Rank(IntEnum):
    PUBLIC = 0
    PRIVATE = 1
    LOOPBACK = 2
    LINK_LOCAL = 3
    NONE = 4  # nothing to download from: multicast, unspecified, reserved


def rank(text: str) -> Rank:
    """Of a numeric address, as the connection uses it."""
    address = _inner(ipaddress.ip_address(text.partition("%")[0]))
    if address.is_loopback:
        return Rank.LOOPBACK
    if address.is_link_local:
        return Rank.LINK_LOCAL
    if address.is_multicast or address.is_unspecified:
        return Rank.NONE
    if address.is_private or not address.is_global:
        return Rank.PRIVATE
    return Rank.NONE if address.is_reserved else Rank.PUBLIC


def _inner(address: Address) -> Address:
    """The IPv4 address that an IPv6 address stands for, if it does."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if inner := address.ipv4_mapped or address.sixtofour:
        return inner
    if address in _NAT64:
        return ipaddress.IPv4Address(int(address) & _LOW_32)
    return address


class Policy:
    """The rule for one download: the first server decides how far in a redirect may lead.

    :param private: addresses that are not public may be used at all
    """

    def __init__(self, *, private: bool) -> None:
        self._private = private
        self._highest: Rank | None = None

    def refusal(self, address: str) -> str | None:
        """Why ``address`` may not be connected to; None: it may."""
        found = rank(address)
        if found == Rank.NONE:
            return f"{address} is no address of a server"
        if found > Rank.PUBLIC and not self._private:
            return f"{address} is not a public address, and [images] private_addresses is off"
        if self._highest is not None and found > self._highest:
            kind = found.name.lower().replace("_", "-")
            return f"a redirect to the {kind} address {address} is refused"
        if self._highest is None:
            self._highest = found
        return None

    def through_proxy(self) -> None:
        """The proxy connects for us: what it reaches counts as public, so no redirect leads inwards."""
        if self._highest is None:
            self._highest = Rank.PUBLIC
