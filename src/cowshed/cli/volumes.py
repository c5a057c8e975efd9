"""cowshed volume attach, detach, ls, extend"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from cowshed.cli import output
from cowshed.cli.context import Session, instance_argument, instance_directory, instance_names, verb
from cowshed.cli.images import Aliased
from cowshed.cli.words import pairs, password, sources
from cowshed.errors import CowshedError

if TYPE_CHECKING:
    from cowshed.manager.volumes import Seen


def describe(seen: Seen, instance: str) -> dict[str, Any]:
    """What programs see of a volume; sizes in bytes, null where it was never seen; ``size_current``: it is so now."""
    from cowshed.volumes import shape, spec

    volume = seen.volume
    return {
        "instance": instance,
        "id": volume.id,
        "device": volume.target,
        "bus": str(volume.bus),
        "type": volume.connection_info.get("driver_volume_type"),
        "source": spec.shown(volume.connection_info),
        "size": seen.size,
        "size_current": seen.current,
        "read_only": shape.read_only(volume.connection_info),
        "shared": shape.shareable(volume.connection_info),
        "encrypted": volume.encryption is not None,
        "root": volume.is_root,
        "tag": volume.tag,
        "state": str(volume.state),
    }


def _size(row: output.Row) -> str:
    from cowshed.units import format_size

    if row["size"] is None:
        return ""
    return format_size(row["size"]) + ("" if row.get("size_current") else " (last seen)")


def _mode(row: output.Row) -> str:
    return ", ".join(word for word in ("root", "read_only", "shared", "encrypted") if row[word]).replace("_", "-")


COLUMNS: output.Columns = {
    "instance": lambda row: row["instance"],
    "volume": lambda row: row["id"],
    "device": lambda row: row["device"],
    "size": _size,
    "mode": _mode,
    "source": lambda row: row["source"],
}


def volume_names(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For completion: ids and device names of the instance's volumes, from the record alone."""
    from cowshed.volumes import record

    with suppress(CowshedError, OSError):
        volumes = record.load(instance_directory(ctx))
        return [name for one in volumes for name in (one.target, one.id) if name.startswith(incomplete)]
    return []


@click.group(cls=Aliased)
def volume() -> None:
    """Volumes: storage that exists without the instance.

    VOLUME is its id, 8 letters of its beginning, or its device in the guest (vdb).
    """


@volume.command()
@instance_argument()
@click.argument("source", shell_complete=sources)
@click.option(
    "--format", "disk_format", type=click.Choice(["raw", "qcow2"]), help="Of a file; never guessed from its content."
)
@click.option("--device", default="", help="Its name, such as vdb; default: the next free one.")
@click.option("--bus", type=click.Choice(["virtio", "scsi", "sata", "ide", "usb"]), help="Default: as the image says.")
@click.option("--type", type=click.Choice(["disk", "cdrom", "lun"]), help="How it is shown; default: disk.")
@click.option("--id", "volume_id", default="", help="Its identity and serial number; default: from where it is.")
@click.option("--read-only", is_flag=True, help="The guest cannot write to it.")
@click.option("--shared", is_flag=True, help="Other guests may write to it at the same time; they must know how.")
@click.option("--discard", is_flag=True, help="Pass on what the guest discards.")
@click.option("--cache", type=click.Choice(["none", "writethrough", "writeback", "directsync"]), help="Default: none.")
@click.option("--limit", "limits", multiple=True, metavar="NAME=NUMBER", help="Such as total_iops_sec=500; repeatable.")
@click.option("--block-size", type=int, default=0, metavar="BYTES", help="Of the guest's sectors, such as 4096.")
@click.option("--user", default="", help="For iSCSI (CHAP) or Ceph.")
@click.option("--password-file", metavar="FILE", help="With the CHAP password; - is standard input.")
@click.option("--key", "key_id", default="", metavar="UUID", help="It is encrypted (LUKS) with this key of ours.")
@click.option("--tag", default="", help="Names it in the guest's metadata.")
@verb
def attach(
    session: Session,
    instance: str,
    source: str,
    disk_format: str | None,
    volume_id: str,
    user: str,
    password_file: str | None,
    limits: tuple[str, ...],
    block_size: int,
    **options: Any,
) -> None:
    """Attach SOURCE to INSTANCE, running or not.

    \b
    nbd://HOST[:PORT]/EXPORT     nbd+unix:///EXPORT?socket=/PATH
    iscsi://HOST[:PORT]/IQN/LUN  with --user and --password-file for CHAP
    rbd:POOL[/NAMESPACE]/IMAGE   as [rbd] in the configuration reaches the cluster
    /dev/...                     a block device of this host
    PATH                         a file, with --format
    """
    from cowshed.manager.volumes import Options

    chosen = Options(
        limits=pairs(limits),
        logical_block_size=block_size,
        physical_block_size=block_size,
        **{name: value for name, value in options.items() if value is not None},
    )
    with session.working() as host:
        found = host.volumes.attach(
            instance,
            source,
            format=disk_format or "",
            user=user,
            password=password(password_file),
            volume_id=volume_id,
            options=chosen,
        )
    _emit(session, instance, found)


def _emit(session: Session, instance: str, found: Seen) -> None:
    item = describe(found, session.host.instances.records.find(instance).name)
    if session.format == "table":
        item = {key: value for key, value in item.items() if value not in ("", None, False)}
        if found.size is not None:
            item["size"] = _size(item)
        item.pop("size_current", None)
    session.emit("volume", item)


@volume.command()
@instance_argument()
@click.argument("volume", shell_complete=volume_names)
@click.option("--wait", metavar="TIME", help="How long the guest may take to let go of it; default: as configured.")
@verb
def detach(session: Session, instance: str, volume: str, wait: str | None) -> None:
    """Detach VOLUME from INSTANCE, running or not.

    The guest is asked to let go of it. One that does not (it is mounted, or the guest is booting) keeps it: exit code 7.
    """
    from cowshed.units import parse_duration

    with session.working() as host:
        gone = host.volumes.detach(instance, volume, timeout=parse_duration(wait) if wait else None)
    session.emit("detached", {"id": gone.id, "device": gone.target})


@volume.command()
@click.argument("instance", required=False, shell_complete=instance_names)
@verb
def ls(session: Session, instance: str | None) -> None:
    """List the volumes of INSTANCE, or of all instances."""
    found = session.host.volumes.list(instance or "")
    session.emit("volumes", [describe(one, record.name) for record, one in found], COLUMNS)


@volume.command()
@instance_argument()
@click.argument("volume", shell_complete=volume_names)
@click.argument("size")
@verb
def extend(session: Session, instance: str, volume: str, size: str) -> None:
    """Show INSTANCE that VOLUME has SIZE now, such as 20G.

    A file is grown by this; every other volume is grown on its storage first.
    """
    with session.working() as host:
        found = host.volumes.extend(instance, volume, size)
    _emit(session, instance, found)
