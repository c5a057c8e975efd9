"""cowshed share attach, detach, ls"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

import click

from cowshed.cli import output
from cowshed.cli.context import Session, directories, instance_argument, instance_directory, instance_names, verb
from cowshed.cli.images import Aliased
from cowshed.errors import CowshedError

if TYPE_CHECKING:
    from cowshed.model.share import Share


def describe(share: Share, instance: str) -> dict[str, Any]:
    """What programs see of a share."""
    return {
        "instance": instance,
        "id": share.id,
        "tag": share.tag,
        "type": str(share.protocol),
        "source": share.source,
        "read_only": share.read_only,
        "status": str(share.status),
    }


COLUMNS: output.Columns = {
    "instance": lambda row: row["instance"],
    "tag": lambda row: row["tag"],
    "mode": lambda row: "read-only" if row["read_only"] else "",
    "status": lambda row: row["status"],
    "source": lambda row: row["source"],
}


def share_tags(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For completion: tags of the instance's shares, from the record alone."""
    from cowshed.shares import record

    with suppress(CowshedError, OSError):
        shares = record.load(instance_directory(ctx))
        return [one.tag for one in shares if one.tag.startswith(incomplete)]
    return []


@click.group(cls=Aliased)
def share() -> None:
    """Directories of this host that a guest mounts: mount -t virtiofs TAG /mnt

    SHARE is its tag, or its directory.
    """


@share.command()
@instance_argument()
@click.argument("directory", shell_complete=directories)
@verb
def attach(session: Session, instance: str, directory: str) -> None:
    """Share DIRECTORY with INSTANCE.

    \b
    DIRECTORY[:TAG][:ro]             the tag is the directory's name where none is given
    nfs://SERVER/EXPORT[:TAG][:ro]   mounted on this host first; needs root

    An instance that is off has it from its next start on. One that runs gets it at once where it was started with a
    share; another must be stopped first.
    """
    with session.working() as host:
        found = host.shares.attach(instance, directory)
    session.emit("share", describe(found, host.instances.records.find(instance).name))


@share.command()
@instance_argument()
@click.argument("share", shell_complete=share_tags)
@click.option("--wait", metavar="TIME", help="How long a running guest may take to let go; default: as configured.")
@verb
def detach(session: Session, instance: str, share: str, wait: str | None) -> None:
    """Take SHARE from INSTANCE, running or not. Unmount it in the guest first."""
    from cowshed.units import parse_duration

    with session.working() as host:
        gone = host.shares.detach(instance, share, timeout=parse_duration(wait) if wait else None)
    session.emit("detached", {"id": gone.id, "tag": gone.tag})


@share.command()
@click.argument("instance", required=False, shell_complete=instance_names)
@verb
def ls(session: Session, instance: str | None) -> None:
    """List the shares of INSTANCE, or of all instances."""
    found = session.host.shares.list(instance or "")
    session.emit("shares", [describe(one, record.name) for record, one in found], COLUMNS)
