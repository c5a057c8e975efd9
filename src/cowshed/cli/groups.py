"""cowshed group create, ls, show, rm, rule add, rule rm"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from cowshed.cli import output
from cowshed.cli.context import Session, destructive, group_names, verb
from cowshed.cli.images import Aliased
from cowshed.errors import InvalidRequest

if TYPE_CHECKING:
    from cowshed.model.group import GroupRule, SecurityGroup


def describe(group: SecurityGroup, users: Any) -> dict[str, Any]:
    """What programs see of a group."""
    return {**dataclasses.asdict(group), "users": list(users)}


def sentence(rule: dict[str, Any]) -> str:
    """A rule for people."""
    inward = rule["direction"] == "ingress"
    what = rule["protocol"] or "anything"
    low, high = rule["port_min"], rule["port_max"]
    if low is not None:
        what += f" {low}" if high in (None, low) else f" {low}-{high}"
    other = f"group {rule['group']}" if rule["group"] else rule["cidr"] or "anybody"
    return (
        f"{rule['id']}: {'in' if inward else 'out'}, {rule['ethertype']}, {what} {'from' if inward else 'to'} {other}"
    )


COLUMNS: output.Columns = {
    "name": lambda row: row["name"],
    "rules": lambda row: len(row["rules"]),
    "used by": lambda row: ", ".join(row["users"]),
    "description": lambda row: row["description"],
}


name_argument = click.argument("name", shell_complete=group_names)


@click.group(cls=Aliased)
def group() -> None:
    """Security groups: what the interfaces of their members let through. What no rule allows is dropped."""


@group.command()
@click.argument("name")
@click.option("--description", default="", help="For people; cowshed group show shows it.")
@click.option("--empty", is_flag=True, help="Without the two rules that let members send anything anywhere.")
@verb
def create(session: Session, name: str, description: str, empty: bool) -> None:
    """Make the group NAME."""
    _emit(session, session.host.groups.create(name, description=description, empty=empty))


@group.command()
@verb
def ls(session: Session) -> None:
    """List the groups."""
    groups = session.host.groups
    session.emit("groups", [describe(one, groups.users(one.name)) for one in groups.list()], COLUMNS)


@group.command()
@name_argument
@verb
def show(session: Session, name: str) -> None:
    """Show a group and its rules."""
    _emit(session, session.host.groups.find(name))


def _emit(session: Session, found: SecurityGroup) -> None:
    item = describe(found, session.host.groups.users(found.name))
    if session.format == "table" and not session.quiet:
        item = {**item, "rules": [sentence(rule) for rule in item["rules"]]}
        item.pop("id")
    session.emit("group", item)


@group.command()
@click.argument("names", nargs=-1, required=True, shell_complete=group_names)
@verb
@destructive
def rm(session: Session, names: tuple[str, ...]) -> None:
    """Remove groups that nobody uses."""
    names = tuple(dict.fromkeys(names))
    session.confirm(f"Remove the security {'group' if len(names) == 1 else 'groups'} {', '.join(names)}?")
    gone = []
    with output.collecting() as attempt:
        for name in names:
            with attempt():
                session.host.groups.remove(name)
                gone.append({"name": name})
        if gone:
            session.emit("removed", gone, {"removed": lambda row: row["name"]})


@group.group(cls=Aliased)
def rule() -> None:
    """Rules of a group."""


@rule.command()
@name_argument
@click.argument("direction", type=click.Choice(["in", "out"]))
@click.option(
    "--protocol", default="any", show_default=True, metavar="NAME", help="tcp, udp, sctp, icmp, icmpv6 or a number."
)
@click.option("--port", default="", metavar="PORT[-PORT]", help="Of the one who answers. For ICMP: TYPE[-CODE].")
@click.option("--from", "--to", "cidr", default="", metavar="NETWORK", help="The other side; default: anybody.")
@click.option(
    "--group", "other", default="", metavar="NAME", shell_complete=group_names, help="The other side: members of it."
)
@click.option("--ipv6", is_flag=True, help="Where neither network nor protocol tells: IPv6 instead of IPv4.")
@verb
def add(
    session: Session, name: str, direction: str, protocol: str, port: str, cidr: str, other: str, ipv6: bool
) -> None:
    """Let packets through, and the answers to them. In force for running members at once."""
    from cowshed.manager.groups import check_rule
    from cowshed.model.group import Direction, Ethertype, GroupRule

    low, high = _ports(port, icmp=protocol.startswith("icmp"))
    wanted = GroupRule(
        Direction.INGRESS if direction == "in" else Direction.EGRESS,
        Ethertype.IPV6 if ipv6 else Ethertype.IPV4,
        protocol,
        low,
        high,
        cidr,
        other,
    )
    if ipv6 and check_rule(wanted).ethertype != Ethertype.IPV6:
        raise InvalidRequest(
            reason=f"{cidr or protocol} is IPv4, and --ipv6 says otherwise", hint="leave one of them out"
        )
    with session.working() as host:
        made: GroupRule = host.groups.add_rule(name, wanted)
    if session.format == "table":
        print(made.id if session.quiet else sentence(dataclasses.asdict(made)))
    else:
        session.emit("rule", dataclasses.asdict(made))


def _ports(text: str, *, icmp: bool) -> tuple[int | None, int | None]:
    """:raises InvalidRequest:"""
    if not text:
        return None, None
    low, dash, high = text.partition("-")
    if not low.isdigit() or (dash and not high.isdigit()):
        raise InvalidRequest(reason=f"{text!r} is not a port", hint="such as 80 or 8000-8100")
    if dash:
        return int(low), int(high)
    return int(low), None if icmp else int(low)


@rule.command("rm")
@name_argument
@click.argument("rule_id", metavar="RULE")
@verb
@destructive
def remove(session: Session, name: str, rule_id: str) -> None:
    """Take a rule back. What has begun by it goes on."""
    found = session.host.groups.find_rule(name, rule_id)
    session.confirm(f"Remove the rule {sentence(dataclasses.asdict(found))}, from {name}?")
    with session.working() as host:
        host.groups.remove_rule(name, rule_id)
    session.emit("removed", [{"group": name, "id": rule_id}], {"removed": lambda row: row["id"]})
