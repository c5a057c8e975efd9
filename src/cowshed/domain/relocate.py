"""A domain on another host: what the guest sees stays, what the host gives it is that host's.

The running guest's own XML knows its machine type, its processor and every device's address as they
really are, which an assembly from the record would only guess; the destination's assembly knows the
paths, devices, ports and addresses there.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Final
from xml.etree import ElementTree as ET
from xml.etree.ElementTree import Element as Node

from cowshed.domain import namespace
from cowshed.domain.element import parse
from cowshed.errors import DataCorrupt

_COMMANDLINE: Final = f"{{{namespace.QEMU}}}commandline"
_OS_PATHS: Final = ("kernel", "initrd", "loader", "nvram")


def relocated(guest: str, there: str) -> str:
    """The XML ``guest`` (as it runs here) with what the assembly ``there`` says of the other host.

    :raises DataCorrupt: a disk of the guest is not known there
    """
    node, other = parse(guest), parse(there)
    for prefix, address in namespace.PREFIXES.items():
        ET.register_namespace(prefix, address)
    _take_text(node, other, "devices/emulator")
    for name in _OS_PATHS:
        _take_text(node, other, f"os/{name}")
    _disks(node, other)
    _interfaces(node, other)
    _consoles(node, other)
    _graphics(node, other)
    _channels(node)
    _commandline(node, other)
    return ET.tostring(node, encoding="unicode")


def _take_text(node: Node, other: Node, path: str) -> None:
    mine, theirs = node.find(path), other.find(path)
    if mine is not None and theirs is not None and theirs.text:
        mine.text = theirs.text
        if path.endswith("nvram") and (template := theirs.get("template")):
            mine.set("template", template)


def _replace(mine: Node, theirs: Node, *tags: str) -> None:
    """The children ``tags`` as they are there."""
    for tag in tags:
        for old in mine.findall(tag):
            mine.remove(old)
        for position, new in enumerate(theirs.findall(tag)):
            mine.insert(position, copy.deepcopy(new))


def _target(disk: Node) -> str:
    found = disk.find("target")
    return "" if found is None else found.get("dev", "")


def _mac(interface: Node) -> str:
    found = interface.find("mac")
    return "" if found is None else found.get("address", "").lower()


def _by(nodes: Iterable[Node], key: Callable[[Node], str]) -> dict[str, Node]:
    return {key(one): one for one in nodes}


def _disks(node: Node, other: Node) -> None:
    there = _by(other.iterfind("devices/disk"), _target)
    for disk in node.iterfind("devices/disk"):
        if disk.find("source") is None:
            continue  # an empty drive
        theirs = there.get(_target(disk))
        if theirs is None:
            raise DataCorrupt(
                path=f"disk {_target(disk)} of the guest", reason="the destination has not been told of it"
            )
        _replace(disk, theirs, "source", "backingStore")
        for old in disk.findall("mirror"):
            disk.remove(old)
        if kind := theirs.get("type"):
            disk.set("type", kind)


def _interfaces(node: Node, other: Node) -> None:
    there = _by(other.iterfind("devices/interface"), _mac)
    for interface in node.iterfind("devices/interface"):
        theirs = there.get(_mac(interface))
        if theirs is None:
            continue
        interface.set("type", theirs.get("type", ""))
        _replace(interface, theirs, "source", "target", "filterref", "virtualport", "backend")


def _consoles(node: Node, other: Node) -> None:
    for kind in ("serial", "console"):
        theirs = other.findall("devices/serial")
        for mine, new in zip(node.findall(f"devices/{kind}"), theirs, strict=False):
            target = mine.find("target")
            if kind == "console" and target is not None and target.get("type", "serial") != "serial":
                continue
            mine.set("type", new.get("type", ""))
            mine.attrib.pop("tty", None)
            _replace(mine, new, "source", "log", "protocol")


def _graphics(node: Node, other: Node) -> None:
    there = _by(other.iterfind("devices/graphics"), lambda one: one.get("type", ""))
    devices = node.find("devices")
    assert devices is not None
    for position, mine in enumerate(list(devices)):
        if mine.tag == "graphics" and (new := there.get(mine.get("type", ""))) is not None:
            devices[position] = copy.deepcopy(new)


def _channels(node: Node) -> None:
    """libvirt makes the sockets of unix channels itself, in its own directory."""
    for channel in node.iterfind("devices/channel[@type='unix']"):
        for source in channel.findall("source"):
            if "/libvirt/" in source.get("path", ""):
                channel.remove(source)


def _commandline(node: Node, other: Node) -> None:
    mine, theirs = node.find(_COMMANDLINE), other.find(_COMMANDLINE)
    if mine is not None and theirs is not None:
        mine[:] = [copy.deepcopy(one) for one in theirs]


def machine(domain: Node) -> dict[str, str]:
    """``cpu`` (XML, "" if it names none), ``machine``, ``arch`` and ``virt_type`` of a guest."""
    kind, cpu = domain.find("os/type"), domain.find("cpu")
    return {
        "cpu": "" if cpu is None else ET.tostring(cpu, encoding="unicode").strip(),
        "machine": "" if kind is None else kind.get("machine", ""),
        "arch": "" if kind is None else kind.get("arch", ""),
        "virt_type": domain.get("type", ""),
    }
