"""cowshed nic ls, attach, detach, link, reset"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from cowshed.cli import output
from cowshed.cli.context import Session, group_names, instance_argument, instance_names, verb
from cowshed.cli.images import Aliased
from cowshed.errors import CowshedError

if TYPE_CHECKING:
    from cowshed.manager.nics import Nic


def describe(nic: Nic, instance: str) -> dict[str, Any]:
    """What programs see of an interface."""
    vif = nic.vif
    return {
        "instance": instance,
        "id": vif.id,
        "address": vif.address,
        "type": str(vif.type),
        "source": vif.source,
        "model": vif.model,
        "groups": list(vif.groups),
        "tag": vif.tag,
        "forwards": [f"{one.host_address}:{one.host_port}:{one.guest_port}/{one.protocol}" for one in vif.forwards],
        "addresses": [subnet.address for subnet in vif.subnets if subnet.address],
        "device": nic.device,
        "link": nic.link,
    }


COLUMNS: output.Columns = {
    "instance": lambda row: row["instance"],
    "address": lambda row: row["address"],
    "network": lambda row: f"{row['type']}:{row['source']}" if row["source"] else row["type"],
    "model": lambda row: row["model"],
    "groups": lambda row: ",".join(row["groups"]),
    "device": lambda row: row["device"],
    "link": lambda row: row["link"],
}


def nic_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """MAC addresses of the instance that stands before; from its record alone."""
    from cowshed import config
    from cowshed.manager.records import Records

    with suppress(CowshedError, OSError, KeyError):
        record = Records(config.load().state / "cowshed.db").find(ctx.params["instance"])
        return [vif.address for vif in record.vifs if vif.address.startswith(incomplete.lower())]
    return []


def network_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """user, none, and the bridges of this host."""
    from cowshed.network.device import SYS

    bridges = [f"bridge:{place.parent.name}" for place in sorted(SYS.glob("*/bridge"))]
    words = ["user", "none", "network:", *bridges, "bridge:", "tap:", "macvtap:", "ovs:"]
    return [word for word in words if word.startswith(incomplete)]


@click.group(cls=Aliased)
def nic() -> None:
    """Interfaces of instances. NIC is its MAC address, or the beginning of its id."""


@nic.command()
@click.argument("instance", required=False, shell_complete=instance_names)
@verb
def ls(session: Session, instance: str | None) -> None:
    """List the interfaces of INSTANCE, or of all instances."""
    found = session.host.nics.list(instance or "")
    session.emit("interfaces", [describe(one, record.name) for record, one in found], COLUMNS)


@nic.command()
@instance_argument()
@click.option(
    "--network",
    required=True,
    metavar="NET",
    shell_complete=network_names,
    help="user, bridge:NAME, tap:NAME, macvtap:DEVICE, ovs:BRIDGE or NAME of a libvirt network.",
)
@click.option("--mac", default="", metavar="ADDRESS", help="Its MAC address; default: one derived from the instance.")
@click.option("--model", default="", help="Of the card, such as virtio or e1000e; default: the image's or the host's.")
@click.option(
    "-p",
    "--publish",
    multiple=True,
    metavar="HOST:GUEST",
    help="Port forward of a user network, such as 2222:22; repeatable.",
)
@click.option(
    "--group", "groups", multiple=True, metavar="NAME", shell_complete=group_names, help="Security group; repeatable."
)
@click.option("--ip", default="", metavar="ADDRESS/SIZE[,GATEWAY]", help="The IP address it uses, such as 10.0.0.5/24.")
@click.option("--tag", default="", help="Names it in the guest's metadata.")
@verb
def attach(session: Session, instance: str, network: str, **options: Any) -> None:
    """Give INSTANCE one more interface. A running guest sees it at once."""
    with session.working() as host:
        vif = host.nics.attach(
            instance,
            network,
            address=options["mac"],
            model=options["model"],
            publish=options["publish"],
            groups=options["groups"],
            ip=options["ip"],
            tag=options["tag"],
        )
    _emit(session, instance, vif.address)


@nic.command()
@instance_argument()
@click.argument("nic", shell_complete=nic_names)
@click.option("--wait", metavar="TIME", help="How long the guest may take to let go of it; default: as configured.")
@verb
def detach(session: Session, instance: str, nic: str, wait: str | None) -> None:
    """Take an interface from INSTANCE.

    A running guest is asked to let go of it. One that does not (it is booting, or paused) keeps it: exit code 7.
    """
    from cowshed.units import parse_duration

    with session.working() as host:
        vif = host.nics.detach(instance, nic, timeout=parse_duration(wait) if wait else None)
    if session.format == "table":
        print(vif.address)
    else:
        session.emit("interface", {"instance": instance, "id": vif.id, "address": vif.address})


@nic.command()
@instance_argument()
@click.argument("nic", shell_complete=nic_names)
@click.argument("state", type=click.Choice(["up", "down"]))
@verb
def link(session: Session, instance: str, nic: str, state: str) -> None:
    """Pull the cable of an interface, or put it in again; until the next start."""
    with session.working() as host:
        vif = host.nics.set_link(instance, nic, up=state == "up")
    _emit(session, instance, vif.address)


@nic.command()
@instance_argument()
@click.argument("nic", shell_complete=nic_names)
@click.argument("groups", nargs=-1, shell_complete=group_names)
@verb
def groups(session: Session, instance: str, nic: str, groups: tuple[str, ...]) -> None:
    """Put an interface into these security groups and no others; with none its packets are not filtered."""
    with session.working() as host:
        vif = host.nics.set_groups(instance, nic, groups)
    _emit(session, instance, vif.address)


@nic.command()
@instance_argument()
@verb
def reset(session: Session, instance: str) -> None:
    """Let the DHCP clients in INSTANCE ask anew: each link goes down and up again."""
    with session.working() as host:
        addresses = [vif.address for vif in host.nics.reset(instance)]
    if session.format == "table":
        print("\n".join(addresses))
    else:
        session.emit("interfaces", _described(session, instance, addresses))


def _emit(session: Session, instance: str, address: str) -> None:
    if session.format == "table":
        print(address)
    else:
        session.emit("interface", _described(session, instance, [address])[0])


def _described(session: Session, instance: str, addresses: Sequence[str]) -> list[dict[str, Any]]:
    listed = session.host.nics.list(instance)
    return [describe(found, record.name) for record, found in listed if found.vif.address in addresses]
