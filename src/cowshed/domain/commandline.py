"""Arguments passed to QEMU as they are: user networks with port forwards where there is no passt.

libvirt's own user network (slirp) has no port forwards, and libvirt 9.0 as Debian 12 builds it
refuses passt. So such an interface is given to QEMU directly. It sits at a fixed place on the bus
that libvirt, which fills the bus from its low end, does not use.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Final

from cowshed.domain import namespace
from cowshed.domain.element import Element, children, value
from cowshed.domain.interface import checked
from cowshed.errors import InvalidRequest, UnsupportedOperation
from cowshed.model.vif import PluggedVif

_LIMIT: Final = 8  # interfaces of this kind; more would reach into libvirt's part of the bus
_PCIE, _PCI = "pcie.0", "pci.0"  # the first bus of a q35, and of a pc
_DEVICES: Final = {
    "virtio": "virtio-net-pci",
    "e1000": "e1000",
    "e1000e": "e1000e",
    "rtl8139": "rtl8139",
    "ne2k_pci": "ne2k_pci",
    "pcnet": "pcnet",
    "vmxnet3": "vmxnet3",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument(Element):
    """``<qemu:arg>``: one of them."""

    NAMESPACE: ClassVar[str] = namespace.QEMU
    TAG: ClassVar[str] = "arg"

    value: str | None = value("@value")


@dataclass(frozen=True, slots=True, kw_only=True)
class Commandline(Element):
    """``<qemu:commandline>``: words that QEMU is given besides."""

    NAMESPACE: ClassVar[str] = namespace.QEMU
    TAG: ClassVar[str] = "commandline"

    arguments: tuple[Argument, ...] = children()


def commandline(vifs: Iterable[tuple[PluggedVif, str]], *, pcie: bool) -> Commandline | None:
    """The arguments of ``vifs`` (each with its model), None if there are none.

    :raises UnsupportedOperation: an IPv6 address, which slirp cannot forward from, or too many
    :raises InvalidRequest: a model, an address or a port that is none
    """
    texts = [text for number, (vif, model) in enumerate(vifs) for text in _interface(number, vif, model, pcie)]
    return Commandline(arguments=tuple(Argument(value=text) for text in texts)) if texts else None


def _interface(number: int, plugged: PluggedVif, model: str, pcie: bool) -> Iterator[str]:
    if number >= _LIMIT:
        raise UnsupportedOperation(
            subject="a guest", operation=f"have more than {_LIMIT} interfaces with forwards", reason="no slots are left"
        )
    if model not in _DEVICES:
        raise InvalidRequest(reason=f"{model!r} is not a network card", hint=f"known: {', '.join(_DEVICES)}")
    name = f"user{number}"
    yield "-netdev"
    yield ",".join(["user", f"id={name}", *_forwards(plugged)])
    yield "-device"
    bus, slot = (_PCIE, 0x10 + number) if pcie else (_PCI, 0x1F - number)
    # No boot ROM: the interface is not booted from, and its address is not libvirt's to place one at.
    yield f"{_DEVICES[model]},netdev={name},id={name}-nic,mac={plugged.vif.address},bus={bus},addr={slot:#x},romfile="


def addresses(given: Commandline) -> dict[str, str]:
    """Where the interfaces of :func:`commandline` are: MAC address (lower case) -> PCI address as Linux writes it.

    They sit on the first bus, whose number no guest changes.
    """
    found = {}
    for one in given.arguments:
        options = dict(word.partition("=")[::2] for word in (one.value or "").split(","))
        if "mac" in options and options.get("bus") in (_PCIE, _PCI):
            found[options["mac"].lower()] = f"0000:00:{int(options.get('addr', '0'), 16):02x}.0"
    return found


def _forwards(plugged: PluggedVif) -> Iterator[str]:
    for one in plugged.vif.forwards:
        address = checked(one)
        if isinstance(address, ipaddress.IPv6Address):
            raise UnsupportedOperation(
                subject="the user network",
                operation=f"forward from {address}",
                reason="slirp listens on IPv4 addresses only",
                hint="give an IPv4 address, or install passt with a libvirt that knows it",
            )
        yield f"hostfwd={one.protocol}:{address}:{one.host_port}-:{one.guest_port}"
