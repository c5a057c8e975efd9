"""Words of the command line to interfaces and port forwards."""

from __future__ import annotations

import ipaddress
import re
import uuid as uuids
from collections.abc import Sequence
from dataclasses import replace

from cowshed.errors import InvalidRequest
from cowshed.model.vif import LOCAL, PortForward, Protocol, Vif, VifType
from cowshed.network import device
from cowshed.network.mac import check, derived
from cowshed.network.user import free_port

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")
_FORWARD = re.compile(
    r"(?:(?:\[(?P<bracketed>[^\[\]]+)\]|(?P<plain>[^\[\]]+)):)?"
    r"(?P<host>[0-9]{1,9}):(?P<guest>[0-9]{1,9})(?:/(?P<protocol>tcp|udp))?",
    re.IGNORECASE,
)
LAST_PORT = 65535
WORDS = "user, none, network:NAME, bridge:NAME, tap:NAME, macvtap:DEVICE, ovs:BRIDGE or NAME"
_OPTIONS = ("mac", "model", "tag")
_DEVICES = (VifType.TAP, VifType.MACVTAP, VifType.OVS)
_FORWARD_HINT = "write HOST:GUEST, for example 2222:22, 127.0.0.1:8080:80 or 5353:53/udp; host port 0 is any free one"


def vifs(words: Sequence[str], forwards: Sequence[str], *, instance: str, default: str) -> tuple[Vif, ...]:
    """The interfaces of a new instance.

    :param words: ``user``, ``none``, ``network:NAME``, ``bridge:NAME``, ``tap:NAME``, ``macvtap:DEVICE``,
        ``ovs:BRIDGE`` or the NAME of a libvirt network, each with ``,mac=ADDRESS``, ``,model=CARD`` and ``,tag=WORD`` behind it
    :param forwards: port forwards; they belong to the first user network
    :param instance: its UUID; the MAC addresses are derived from it
    :param default: the word to use when ``words`` is empty
    """
    found = [_optioned(word, instance, number) for number, word in enumerate(words or [default])]
    addresses = [vif.address for vif in found]
    if double := next((one for one in addresses if addresses.count(one) > 1), ""):
        raise InvalidRequest(reason=f"two interfaces have the address {double}")
    parsed = tuple(port_forward(text) for text in forwards)
    if not parsed:
        return tuple(found)
    return _forwarding(found, parsed)


def _optioned(word: str, instance: str, number: int) -> Vif:
    """``NET[,OPTION=VALUE]...``"""
    network, *options = word.split(",")
    found = _vif(network, instance, number)
    given: dict[str, str] = {}
    for option in options:
        name, sign, value = option.partition("=")
        if name not in _OPTIONS or not sign or not value:
            raise InvalidRequest(reason=f"{option!r} is no option of an interface", hint="known: mac=, model=, tag=")
        given[name] = check(value) if name == "mac" else value
    if options and found.type == VifType.NONE:
        raise InvalidRequest(reason="an interface that leads nowhere has no options")
    return replace(
        found, address=given.get("mac", found.address), model=given.get("model", ""), tag=given.get("tag", "")
    )


def another(
    word: str,
    present: Sequence[Vif],
    *,
    instance: str,
    address: str = "",
    model: str = "",
    forwards: Sequence[str] = (),
) -> Vif:
    """One more interface of an instance.

    :param present: those it has
    :param address: its MAC address; empty: the next derived one that is free
    :raises InvalidRequest: there is an interface with this address; or the word, address or forward is none
    """
    taken = {vif.address for vif in present}
    if address and check(address) in taken:
        raise InvalidRequest(reason=f"the instance has an interface with the address {address}")
    number = 0
    while derived(instance, number) in taken or str(_identity(instance, number)) in {vif.id for vif in present}:
        number += 1
    found = _vif(word, instance, number)
    if found.type == VifType.NONE:
        raise InvalidRequest(reason="an interface that leads nowhere cannot be attached")
    found = replace(found, address=check(address) if address else found.address, model=model)
    if forwards:
        (found,) = _forwarding([found], tuple(port_forward(text) for text in forwards))
    return found


def _identity(instance: str, number: int) -> uuids.UUID:
    return uuids.uuid5(uuids.UUID(instance), f"vif{number}")


def _forwarding(found: list[Vif], parsed: tuple[PortForward, ...]) -> tuple[Vif, ...]:
    """The first user network has the forwards. :raises InvalidRequest: there is none"""
    for number, vif in enumerate(found):
        if vif.type == VifType.USER:
            found[number] = replace(vif, forwards=parsed)
            return tuple(found)
    raise InvalidRequest(
        reason="port forwards need a user network", hint="add --network user, or reach the guest by its own address"
    )


def _vif(word: str, instance: str, number: int) -> Vif:
    kind, _, name = word.partition(":")
    identity = str(_identity(instance, number))
    address = derived(instance, number)
    if word in LOCAL:
        return Vif(identity, address, VifType(word))
    if kind in _DEVICES and name:
        device.check_name(name)
        return Vif(identity, address, VifType(kind), name)
    if kind in (VifType.NETWORK, VifType.BRIDGE) and name:
        return Vif(identity, address, VifType(kind), _checked(name))
    if ":" in word:
        raise InvalidRequest(reason=f"{word!r} is not a network", hint=f"write {WORDS}")
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
