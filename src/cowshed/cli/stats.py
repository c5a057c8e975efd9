"""cowshed stats: what running instances use"""

from __future__ import annotations

import sys
from typing import Any

import click

from cowshed.cli import output
from cowshed.cli.context import Session, Verb, instance_names, verb
from cowshed.errors import InvalidRequest

_INTERVAL = "2s"
_SHORTEST = 0.1  # seconds; each look is a call of libvirt for all guests


@click.command(cls=Verb)
@click.argument("instances", nargs=-1, shell_complete=instance_names)
@click.option(
    "-w", "--watch", is_flag=True, help="Again every few seconds, until ^C; rates are those since the last look."
)
@click.option("--interval", metavar="TIME", help=f"With --watch; at least 0.1s; default: {_INTERVAL}.")
@verb
def stats(session: Session, instances: tuple[str, ...], watch: bool, interval: str | None) -> None:
    """Show what running INSTANCES (default: all) use: processors, memory, disks, network; one call of libvirt for all."""
    from cowshed import clock
    from cowshed.units import parse_duration

    pause = parse_duration(_INTERVAL if interval is None else interval)
    if pause < _SHORTEST:
        raise InvalidRequest(reason=f"an interval of {pause:g} s is too short", hint="at least 0.1s")
    if interval is not None and not watch:
        raise InvalidRequest(reason="--interval is the time between two looks, and there is one", hint="add --watch")
    before: dict[str, Any] = {}
    while True:
        rows = session.host.usage(instances)
        now = clock.current().monotonic()
        for row in rows:
            old = before.get(row["uuid"])
            row["cpu_percent"] = _percent(row, old, now) if old else None
            before[row["uuid"]] = {**row, "at": now}
        if watch and session.format == "table" and sys.stdout.isatty():
            print("\x1b[H\x1b[2J", end="")
        session.emit("usage", rows, _columns())
        if not watch:
            return
        sys.stdout.flush()
        clock.current().sleep(pause)


def _percent(row: dict[str, Any], old: dict[str, Any], now: float) -> float | None:
    """Of one processor, since the last look."""
    span = now - old["at"]
    return round((row["cpu_time"] - old["cpu_time"]) / 1e7 / span, 1) if span > 0 else None


def _columns() -> output.Columns:
    from cowshed.units import format_size

    def sized(key: str) -> Any:
        return lambda row: format_size(row[key])

    return {
        "name": lambda row: row["name"],
        "cpu": lambda row: (
            f"{row['cpu_time'] / 1e9:.1f} s" if row["cpu_percent"] is None else f"{row['cpu_percent']} %"
        ),
        "memory": sized("memory"),
        "read": sized("disk_read"),
        "written": sized("disk_written"),
        "received": sized("received"),
        "sent": sized("sent"),
    }
