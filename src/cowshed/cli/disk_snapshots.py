"""cowshed disk snapshot create, ls, rollback, rm"""

from __future__ import annotations

import time
from typing import Any

import click

from cowshed.cli import output
from cowshed.cli.context import Session, destructive, disk_names, instance_argument, instance_names, verb
from cowshed.cli.images import Aliased
from cowshed.errors import InvalidRequest
from cowshed.model.disk import DiskSnapshot


def describe(instance: str, disk: str, point: DiskSnapshot) -> dict[str, Any]:
    """What programs see of a snapshot; bytes, and seconds since the epoch."""
    return {
        "instance": instance,
        "disk": disk,
        "name": point.name,
        "created": point.created,
        "size": point.virtual_size,
        "parent": point.parent,
    }


def _size(row: output.Row) -> str:
    from cowshed.units import format_size

    return format_size(row["size"])


COLUMNS: output.Columns = {
    "instance": lambda row: row["instance"],
    "disk": lambda row: row["disk"],
    "snapshot": lambda row: row["name"],
    "size": _size,
    "age": lambda row: output.age(row["created"]),
    "parent": lambda row: row["parent"] or "",
}

_WORDS = click.argument("words", metavar="[DISK] [NAME]", nargs=-1, shell_complete=disk_names)


@click.group(cls=Aliased)
def snapshot() -> None:
    """Points in time of the disks of a stopped instance.

    Without DISK all disks that the guest can write to are meant, together.
    """


def _split(session: Session, instance: str, words: tuple[str, ...]) -> tuple[str, str]:
    """(disk, name). One word is a name; a disk's would be taken for one by mistake.

    :raises InvalidRequest:
    """
    if len(words) > 2:
        raise click.UsageError(f"too many words: {' '.join(words)}", click.get_current_context())
    if len(words) == 2:
        return words[0], words[1]
    if not words:
        return "", ""
    known = {"root", "swap", "ephemeral"} | {disk.name for _, disk in session.host.disks.list(instance)}
    if words[0] in known:
        raise InvalidRequest(
            reason=f"{words[0]} is a disk, and no name for a snapshot", hint=f"write both: {words[0]} NAME"
        )
    return "", words[0]


def _needed(name: str) -> str:
    if not name:
        raise click.UsageError("the name of a snapshot is missing", click.get_current_context())
    return name


def _emit(session: Session, key: str, instance: str, name: str, disks: Any) -> None:
    rows = [{"name": name, "instance": instance, "disk": disk} for disk in disks]
    session.emit(key, rows, {"snapshot": lambda row: row["name"], "disk": lambda row: row["disk"]})


@snapshot.command()
@instance_argument()
@_WORDS
@verb
def create(session: Session, instance: str, words: tuple[str, ...]) -> None:
    """Take a snapshot of one disk of INSTANCE, or of all disks together; NAME is the time where none is given."""
    disk, name = _split(session, instance, words)
    name = name or time.strftime("%Y%m%d-%H%M%S")
    with session.working() as host:
        disks = host.disks.take_snapshot(instance, name, disk)
    _emit(session, "snapshots", instance, name, disks)


@snapshot.command()
@click.argument("instance", required=False, default="", shell_complete=instance_names)
@click.argument("disk", required=False, default="", shell_complete=disk_names)
@verb
def ls(session: Session, instance: str, disk: str) -> None:
    """List the snapshots of the disks of INSTANCE, or of all instances."""
    found = session.host.disks.list_snapshots(instance, disk)
    session.emit("snapshots", [describe(record.name, one, point) for record, (one, point) in found], COLUMNS)


@snapshot.command()
@instance_argument()
@_WORDS
@verb
@destructive
def rollback(session: Session, instance: str, words: tuple[str, ...]) -> None:
    """Let one disk of INSTANCE, or all, be what they were. What was written since is lost; the snapshot stays."""
    disk, name = _split(session, instance, words)
    name = _needed(name)
    session.confirm(f"Lose what was written to {disk or 'all disks'} of {instance} since {name}?")
    with session.working() as host:
        disks = host.disks.roll_back(instance, name, disk)
    _emit(session, "rolled_back", instance, name, disks)


@snapshot.command()
@instance_argument()
@_WORDS
@verb
@destructive
def rm(session: Session, instance: str, words: tuple[str, ...]) -> None:
    """Forget a snapshot of one disk of INSTANCE, or of all that have it. The disks stay as they are."""
    disk, name = _split(session, instance, words)
    name = _needed(name)
    session.confirm(f"Remove the snapshot {name} of {disk or 'all disks'} of {instance}?")
    with session.working() as host:
        disks = host.disks.remove_snapshot(instance, name, disk)
    _emit(session, "removed", instance, name, disks)
