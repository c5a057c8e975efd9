"""Two hosts make sure that they are two, and that all ways lead to the same one, before an instance moves."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from cowshed import log
from cowshed.driver.steps.leaving import PROBE
from cowshed.errors import CowshedError, HostUnsuitable, InvalidRequest

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms
    from cowshed.migration.transport import Channel

_log = log.logger(__name__)


def is_here(rooms: Rooms, dest: str) -> bool:
    """Is ``dest`` a name or the address of this host? Other names of it are found out by :func:`meet`."""
    from cowshed.host import facts

    name = rooms.hypervisor.hostname()
    address = rooms.config.host.address or facts.address()
    return dest in {"", "localhost", name, name.partition(".")[0], address}


def meet(rooms: Rooms, dest: str, peer: Channel) -> dict[str, Any]:
    """Is the host behind ``peer`` another one? What :func:`met` answers there.

    :raises HostUnsuitable: it is this one, or has this one's records :raises ToolFailed: it is not reached
    """
    from cowshed.tools import filesystem

    probe = rooms.state / f".shared-{secrets.token_hex(16)}"
    filesystem.make_directory(rooms.state)
    filesystem.write_atomically(probe, b"")
    try:
        there = peer.ask("meet", probe=probe.name)
        ours = met(rooms, "")
    finally:
        filesystem.remove_file(probe)
    if there["same"] or (there["host"], there["name"]) == (ours["host"], ours["name"]):
        raise HostUnsuitable(
            reason=f"the way to {dest} leads to this host itself",
            hint="name another host, or see [migration] command: %s is the name that was given",
        )
    return there


def met(rooms: Rooms, probe: str) -> dict[str, Any]:
    """Who this host is: ``host`` (libvirt's UUID of it), ``name``; ``same``: is ``probe`` in its state?"""
    from cowshed.hypervisor import capabilities

    if probe and not PROBE.fullmatch(probe):
        raise InvalidRequest(reason=f"{probe!r} is not a file that shows whether two hosts are one")
    return {
        "host": capabilities.host_uuid(rooms.hypervisor),
        "name": rooms.hypervisor.hostname(),
        "same": bool(probe) and (rooms.state / probe).exists(),
    }


def refuse_apart(rooms: Rooms, dest: str, there: dict[str, Any]) -> None:
    """A live migration goes two ways: cowshed over the command, the guest over libvirt's URI.

    Where this process cannot take libvirt's way, nothing is known: libvirt itself may be able to.

    :param there: what :func:`meet` has returned
    :raises HostUnsuitable: they lead to different hosts
    """
    from cowshed.hypervisor import Hypervisor, capabilities

    uri = rooms.config.migration.uri.replace("%s", dest)
    try:
        with Hypervisor(_silent(uri), connect_timeout=10) as other:
            host, name = capabilities.host_uuid(other), other.hostname()
    except CowshedError as error:
        _log.info("whether %s leads to the same host as [migration] command is not known: %s", uri, error)
        return
    if host != there["host"]:
        raise HostUnsuitable(
            reason=f"[migration] command reaches {there['name']} ({there['host']}) for {dest}, uri reaches {name} ({host})",
            hint="both must lead to the same host, and to the same libvirt on it",
        )


def _silent(uri: str) -> str:
    """ssh asks nobody for a password."""
    if "+ssh://" not in uri or "no_tty=" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}no_tty=1"
