"""Words of the command line to interfaces and port forwards."""

from __future__ import annotations

import ipaddress
import re
import uuid as uuids
from collections.abc import Sequence
from dataclasses import replace

from cowshed.errors import InvalidRequest
from cowshed.model.vif import PortForward, Protocol, Vif, VifType
from cowshed.network.mac import derived
from cowshed.network.user import free_port

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_FORWARD = re.compile(
    r"(?:(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<plain>[^\[\]]+)):)?"
    r"(?P<host>[0-9]{1,9}):(?P<guest>[0-9]{1,9})(?:/(?P<protocol>tcp|udp))?",
    re.IGNORECASE,
)
LAST_PORT = 65535
_FORWARD_HINT = "write HOST:GUEST, for example 2222:22, 127.0.0.1:8080:80 or 5353:53/udp; host port 0 is any free one"


def vifs(words: Sequence[str], forwards: Sequence[str], *, instance: str, default: str) -> tuple[Vif, ...]:
    """The interfaces of a new instance.

    :param words: ``user``, ``none``, ``network:NAME``, ``bridge:NAME`` or the NAME of a libvirt network
    :param forwards: port forwards; they belong to the first user network
    :param instance: its UUID; the MAC addresses are derived from it
    :param default: the word to use when ``words`` is empty
    """
    found = [_vif(word, instance, number) for number, word in enumerate(words or [default])]
    parsed = tuple(port_forward(text) for text in forwards)
    if not parsed:
        return tuple(found)
    for number, vif in enumerate(found):
        if vif.type == VifType.USER:
            found[number] = replace(vif, forwards=parsed)
            return tuple(found)
    raise InvalidRequest(
        reason="port forwards need a user network", hint="add --network user, or reach the guest by its own address"
    )


def _vif(word: str, instance: str, number: int) -> Vif:
    kind, _, name = word.partition(":")
    identity = str(uuids.uuid5(uuids.UUID(instance), f"vif{number}"))
    address = derived(instance, number)
    if word in (VifType.USER, VifType.NONE):
        return Vif(identity, address, VifType(word))
    if kind in (VifType.NETWORK, VifType.BRIDGE) and name:
        return Vif(identity, address, VifType(kind), _checked(name))
    if ":" in word:
        raise InvalidRequest(
            reason=f"{word!r} is not a network", hint="write user, none, network:NAME, bridge:NAME or NAME"
        )
    return Vif(identity, address, VifType.NETWORK, _checked(word))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(reason=f"{name!r} cannot be the name of a network")
    return name


def port_forward(text: str) -> PortForward:
    """``[ADDRESS:]HOST:GUEST[/tcp|udp]``; an IPv6 address may stand in brackets. :raises InvalidRequest:"""
    found = _FORWARD.fullmatch(text)
    try:
        if not found:
            raise ValueError(text)
        address = str(ipaddress.ip_address(found["plain"] or found["bracketed"] or "127.0.0.1"))
    except ValueError:
        raise InvalidRequest(reason=f"{text!r} is not a port forward", hint=_FORWARD_HINT) from None
    protocol = Protocol((found["protocol"] or "tcp").lower())
    port, inside = int(found["host"]), int(found["guest"])
    if port > LAST_PORT or not 0 < inside <= LAST_PORT:
        raise InvalidRequest(reason=f"{text!r}: ports go from 1 to {LAST_PORT}", hint=_FORWARD_HINT)
    return PortForward(port or free_port(address, protocol), inside, protocol, address)
