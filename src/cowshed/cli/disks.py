"""cowshed disk ls, show, resize, move, export, and the others"""

from __future__ import annotations

import dataclasses
import os
from typing import TYPE_CHECKING, Any

import click

from cowshed.cli import disk_limit, output
from cowshed.cli.context import (
    Session,
    backend_names,
    disk_names,
    instance_argument,
    instance_names,
    verb,
)
from cowshed.cli.disk_snapshots import describe as describe_snapshot
from cowshed.cli.disk_snapshots import snapshot
from cowshed.cli.images import Aliased
from cowshed.errors import InvalidRequest

if TYPE_CHECKING:
    from cowshed.model.disk import LocalDisk


def describe(disk: LocalDisk, instance: str) -> dict[str, Any]:
    """What programs see of a disk; sizes in bytes."""
    item = dataclasses.asdict(disk)
    item["size"] = item.pop("virtual_size")
    item["format"] = str(disk.format)
    item["limits"] = disk_limit.describe(disk.limits)
    item["snapshots"] = [describe_snapshot(instance, disk.name, point) for point in disk.snapshots]
    return {"instance": instance, **item}


def size_of(key: str) -> Any:
    from cowshed.units import format_size

    return lambda row: format_size(row[key])


COLUMNS: output.Columns = {
    "instance": lambda row: row["instance"],
    "disk": lambda row: row["name"],
    "target": lambda row: row["target"],
    "backend": lambda row: row["backend"],
    "format": lambda row: row["format"],
    "size": size_of("size"),
    "held": size_of("allocated"),
    "snapshots": lambda row: len(row["snapshots"]) or "",
    "encrypted": lambda row: row["encryption"] or "",
}


@click.group(cls=Aliased)
def disk() -> None:
    """Disks of instances.

    DISK is its name (disk.swap), a word for it (root, swap, ephemeral, cdrom, eph0), or its target in the guest (vda).
    Without one the root disk is meant.
    """


disk.add_command(snapshot)
disk.add_command(disk_limit.limit)


@disk.command()
@click.argument("instance", required=False, shell_complete=instance_names)
@verb
def ls(session: Session, instance: str | None) -> None:
    """List the disks of INSTANCE, or of all instances."""
    found = session.host.disks.list(instance or "")
    session.emit("disks", [describe(one, record.name) for record, one in found], COLUMNS)
    if session.format == "table" and not session.quiet:
        _tell_of_volumes(session, instance)


def _tell_of_volumes(session: Session, instance: str | None) -> None:
    """Who looks for a root disk that is none."""
    records = session.host.instances.records
    for record in [records.find(instance)] if instance else records.all():
        if root := record.instance.system_metadata.get("root_volume"):
            output.note(f"{record.name} boots from volume {root}: cowshed volume ls {record.name}")


@disk.command()
@instance_argument()
@click.argument("disk", required=False, default="", shell_complete=disk_names)
@verb
def show(session: Session, instance: str, disk: str) -> None:
    """Show one disk of INSTANCE."""
    _emit(session, instance, session.host.disks.show(instance, disk))


def _for_people(item: dict[str, Any]) -> dict[str, Any]:
    from cowshed.units import format_size

    changed = dict(item)
    changed.update(size=format_size(item["size"]), allocated=format_size(item["allocated"]))
    changed["limits"] = disk_limit.in_words(item["limits"])
    changed["snapshots"] = [
        f"{point['name']}: {output.moment(point['created'])}, {format_size(point['size'])}"
        for point in item["snapshots"]
    ]
    return {key: value for key, value in changed.items() if value not in ("", [], {}, None, False)}


def _emit(session: Session, instance: str, found: LocalDisk) -> None:
    item = describe(found, session.host.instances.records.find(instance).name)
    session.emit("disk", _for_people(item) if session.format == "table" else item)


@disk.command()
@instance_argument()
@click.argument("words", metavar="[DISK] SIZE", nargs=-1, required=True, shell_complete=disk_names)
@verb
def resize(session: Session, instance: str, words: tuple[str, ...]) -> None:
    """Grow a disk of INSTANCE to SIZE, such as 20G, or by it, such as +5G.

    A running guest sees the new size at once where the disk's backend can grow under it. Partitions and file systems
    are the guest's to grow. A disk is never cut.
    """
    *before, size = words
    if len(before) > 1:
        raise click.UsageError(f"too many words: {' '.join(words)}", click.get_current_context())
    with session.working() as host:
        found = host.disks.resize(instance, size, "".join(before))
    _emit(session, instance, found)


@disk.command()
@instance_argument()
@click.argument("disk", required=False, default="", shell_complete=disk_names)
@click.option("--to", required=True, metavar="BACKEND", shell_complete=backend_names, help="See cowshed backends.")
@click.option("--all", "every", is_flag=True, help="Every disk that the guest can write to, one after the other.")
@verb
def move(session: Session, instance: str, disk: str, to: str, every: bool) -> None:
    """Move a disk of the stopped INSTANCE to another backend.

    The copy is read back and compared before the old disk is removed; interrupted anywhere, the instance has one of
    them whole. The new disk stands on no base. Snapshots do not move: remove them first.
    """
    if every and disk:
        raise InvalidRequest(reason=f"give --all or {disk}, not both")
    with session.working() as host:
        if every:
            names = [one.name for _, one in host.disks.list(instance) if not one.readonly]
            moved = [describe(host.disks.move(instance, to, name), instance) for name in names]
            session.emit("disks", moved, COLUMNS)
            return
        found = host.disks.move(instance, to, disk)
    _emit(session, instance, found)


@disk.command()
@instance_argument()
@click.argument("words", metavar="[DISK] FILE", nargs=-1, required=True, shell_complete=disk_names)
@click.option(
    "--format",
    "disk_format",
    type=click.Choice(["qcow2", "raw"]),
    help="Default: raw for a FILE whose name ends in .raw, else qcow2.",
)
@click.option("--compress", is_flag=True, help="qcow2 only; on all cores.")
@click.option("--plaintext", is_flag=True, help="Decrypt an encrypted disk; else the file has the disk's key.")
@click.option("--key-file", metavar="FILE", help="A new file for the key of the encrypted disk.")
@verb
def export(
    session: Session,
    instance: str,
    words: tuple[str, ...],
    disk_format: str | None,
    compress: bool,
    plaintext: bool,
    key_file: str | None,
) -> None:
    """Write a disk of the stopped INSTANCE to the new FILE, which needs nothing else.

    A disk that is encrypted leaves the host encrypted (LUKS), with the disk's own key. That key is removed with the
    disk: keep it with --key-file.
    """
    *before, target = words
    if len(before) > 1:
        raise click.UsageError(f"too many words: {' '.join(words)}", click.get_current_context())
    disk_format = disk_format or _format_of(target)
    with session.working() as host:
        path = host.disks.export(
            instance,
            target,
            "".join(before),
            format=disk_format,
            compress=compress,
            plaintext=plaintext,
            key_file=key_file,
        )
    session.emit("file", {"name": str(path), "format": disk_format, "size": path.stat().st_size})


def _format_of(target: str) -> str:
    """:raises InvalidRequest: the name promises a format that is not written"""
    suffix = os.path.splitext(target)[1].lower()
    if suffix in (".vmdk", ".vdi", ".vhd", ".vhdx", ".iso", ".ova"):
        raise InvalidRequest(
            reason=f"{target}: raw and qcow2 are written, not {suffix[1:]}",
            hint="--format names what the file shall be",
        )
    return "raw" if suffix == ".raw" else "qcow2"
