"""cowshed host: show, enable, disable, drain"""

from __future__ import annotations

from typing import Any

import click

from cowshed.cli.context import Group, Session, verb
from cowshed.errors import InvalidRequest


@click.group(cls=Group)
def host() -> None:
    """This host: what it has, and whether it takes new instances."""


@host.command("show")
@verb
def show(session: Session) -> None:
    """Show what this host has, what is used, and whether it takes new instances."""
    from cowshed.units import MiB, format_size

    facts = session.host.facts()
    if session.format != "table":
        session.emit("host", facts)
        return
    shown: dict[str, Any] = {
        "name": facts["name"],
        "state": "enabled" if not facts["disabled"] else f"disabled: {'; '.join(facts['disabled'])}",
        "address": facts["address"],
        "uptime": facts["uptime"].strip(),
        "cpus": f"{facts['vcpus_used']} of {facts['vcpus']} used",
        "memory": f"{format_size(facts['memory_mb_used'] * MiB)} of {format_size(facts['memory_mb'] * MiB)} used",
        "disk": f"{facts['local_gb_used']} of {facts['local_gb']} GiB used",
        "instances": facts["instances"],
        "pools": ", ".join(sorted(facts["aggregates"])) or None,
    }
    session.emit("host", {key: value for key, value in shown.items() if value is not None})


def _switch(name: str, enabled: bool, text: str) -> None:
    @host.command(name, help=text)
    @verb
    def command(session: Session) -> None:
        _emit(session, session.host.driver.set_host_enabled(enabled))


def _emit(session: Session, state: str) -> None:
    session.emit("host", {"name": session.host.driver.get_available_nodes()[0], "state": state})


_switch("enable", True, "Take new instances again.")
_switch("disable", False, "Take no new instances; running ones go on.")


@host.command("drain")
@click.option("--to", default="", metavar="HOST", help="Move running instances to this host first, live.")
@click.option("--end", is_flag=True, help="The maintenance is over: take new instances again.")
@verb
def drain(session: Session, to: str, end: bool) -> None:
    """Begin a maintenance: take no new instances.

    Without --to nothing may run here: the guests that do are named, and nothing is changed. Stopped instances stay.
    """
    if to and end:
        raise InvalidRequest(
            reason="--end moves no instance, so that --to names a host in vain", hint="leave one of them out"
        )
    with session.working() as opened:
        state = opened.drain(to=to, end=end)
    _emit(session, state)
