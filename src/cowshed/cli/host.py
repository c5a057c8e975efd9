"""cowshed doctor, config show, events"""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from cowshed.cli import output
from cowshed.cli.context import Group, Session, Verb, every_name, verb


@click.command(cls=Verb)
@verb
def doctor(session: Session) -> int:
    """Say what is missing or broken on this host, and how to mend it. Exit code 1 when something is broken."""
    findings = session.host.doctor()
    if session.format == "table":
        for finding in findings:
            mark = {"ok": "ok     ", "warning": "warning", "error": "ERROR  "}.get(finding.level, finding.level)
            print(f"{mark}  {finding.subject}: {output.printable(finding.sentence)}")
            if finding.remedy and finding.level != "ok":
                print(f"         -> {finding.remedy}")
    else:
        session.emit("findings", [dataclasses.asdict(finding) for finding in findings])
    return 1 if any(finding.level == "error" for finding in findings) else 0


@click.group(cls=Group)
def config() -> None:
    """The configuration."""


@config.command("show")
@verb
def config_show(session: Session) -> None:
    """Show every option in force, and where it comes from."""
    from cowshed import config as configuration

    loaded = session.host.config
    items = [
        {
            "option": f"{name}.{option.name}",
            "value": getattr(getattr(loaded, name), option.name),
            "source": loaded.sources.get(f"{name}.{option.name}", "default"),
            "help": option.metadata["help"],
        }
        for name, kind in configuration.sections().items()
        for option in dataclasses.fields(kind)
    ]
    columns: output.Columns = {
        "option": lambda row: row["option"],
        "value": lambda row: ",".join(row["value"]) if isinstance(row["value"], tuple) else row["value"],
        "source": lambda row: row["source"],
    }
    session.emit("config", items, columns)


@click.command(cls=Verb)
@click.argument("instance", required=False, default="", shell_complete=every_name)
@click.option("-f", "--follow", is_flag=True, help="Go on showing what happens, until ^C.")
@click.option(
    "--limit",
    type=click.IntRange(min=0),
    default=100,
    show_default=True,
    metavar="NUMBER",
    help="How many of the past ones.",
)
@verb
def events(session: Session, instance: str, follow: bool, limit: int) -> None:
    """Show what happened to INSTANCE, or to all instances, oldest first.

    INSTANCE may have gone: what happened to all that had its name is shown, or by its whole UUID to it alone.
    """
    past = [dataclasses.asdict(entry) for entry in session.host.events(instance, limit=limit)]
    columns: output.Columns = {
        "time": lambda row: output.moment(row["time"]),
        "instance": lambda row: row["name"],
        "event": lambda row: row["event"],
        "detail": lambda row: row["detail"],
    }
    if not follow:
        session.emit("events", past, columns)
        return
    for row in past:
        _line(session, row)
    for entry in session.host.watch():
        if instance in ("", entry.name, entry.uuid):
            _line(session, dataclasses.asdict(entry))


def _line(session: Session, row: dict[str, Any]) -> None:
    """One event a line, also in JSON, so that a program can read them as they come."""
    import json

    if session.format == "table":
        print(f"{output.moment(row['time'])}  {row['name']}  {row['event']}  {row['detail']}".rstrip(), flush=True)
    else:
        print(json.dumps({"schema_version": output.SCHEMA_VERSION, **row}), flush=True)
