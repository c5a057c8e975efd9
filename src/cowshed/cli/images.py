"""cowshed image pull, ls, show, rm, prune, verify"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, ClassVar

import click

from cowshed.cli import output
from cowshed.cli.context import Group, Session, destructive, image_names, verb
from cowshed.cli.words import pairs
from cowshed.errors import InvalidRequest

if TYPE_CHECKING:
    from cowshed.model.image import Image


def describe(image: Image) -> dict[str, Any]:
    """What programs see of an image; sizes in bytes."""
    return {
        "name": image.name,
        "id": image.id,
        "format": str(image.disk_format),
        "size": image.size,
        "virtual_size": image.virtual_size,
        "digest": f"{image.os_hash_algo}:{image.os_hash_value}" if image.os_hash_value else "",
        "source": image.source,
        "min_disk": image.min_disk,
        "properties": dict(image.properties),
        "created": image.created_at,
    }


def _size(key: str) -> Any:
    from cowshed.units import format_size

    return lambda row: format_size(row[key])


COLUMNS: output.Columns = {
    "name": lambda row: row["name"],
    "format": lambda row: row["format"],
    "size": _size("size"),
    "disk": _size("virtual_size"),
    "id": lambda row: row["id"][:8],
    "age": lambda row: output.age(row["created"]),
}


class Aliased(Group):
    """The other words people write for these verbs."""

    ALIASES: ClassVar = {"list": "ls", "info": "show", "delete": "rm"}

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, self.ALIASES.get(cmd_name, cmd_name))


@click.group(cls=Aliased)
def image() -> None:
    """Images: what instances are made from."""


@image.command()
@click.argument("source")
@click.option("-n", "--name", help="Of the image; default: from the file name.")
@click.option(
    "--format", "disk_format", type=click.Choice(["raw", "qcow2", "iso"]), help="What it is; default: found out."
)
@click.option("--sha256", metavar="HEX", help="Digest the source must have.")
@click.option("--sha512", metavar="HEX", help="Digest the source must have.")
@click.option("--min-disk", default="0", metavar="SIZE", help="Smallest disk it may be put on.")
@click.option(
    "--property", "properties", multiple=True, metavar="KEY=VALUE", help="Such as hw_firmware_type=uefi; repeatable."
)
@verb
def pull(
    session: Session,
    source: str,
    name: str | None,
    disk_format: str | None,
    sha256: str | None,
    sha512: str | None,
    min_disk: str,
    properties: tuple[str, ...],
) -> None:
    """Bring SOURCE, a path or a URL, into the store.

    It is inspected and hashed on the way; gz, xz and zst files are unpacked; a download that broke is resumed.
    """
    from cowshed.units import parse_size

    if sha256 and sha512:
        raise InvalidRequest(reason="give --sha256 or --sha512, not both")
    digest = f"sha256:{sha256}" if sha256 else f"sha512:{sha512}" if sha512 else None
    with session.working() as host:
        found = host.images.pull(
            source,
            name=name,
            format=disk_format,
            digest=digest,
            properties=pairs(properties),
            min_disk=parse_size(min_disk),
        )
    session.emit("image", describe(found) if session.format != "table" else for_people(found))


def for_people(found: Image) -> dict[str, Any]:
    from cowshed.units import format_size

    item = describe(found)
    item.update(size=format_size(found.size), virtual_size=format_size(found.virtual_size))
    item["created"] = output.moment(found.created_at)
    item["min_disk"] = format_size(found.min_disk) if found.min_disk else ""
    return {key: value for key, value in item.items() if value not in ("", {}, None)}


_BASES: output.Columns = {
    "base": lambda row: row["name"],
    "image": lambda row: row["image"] or row["image_id"],
    "where": lambda row: row["where"],
    "format": lambda row: row["format"],
    "size": _size("virtual_size"),
    "held": _size("allocated"),
    "disks": lambda row: row["users"],
}


@image.command()
@click.option("--bases", is_flag=True, help="List what was made of images for disks to stand on, and where it is kept.")
@verb
def ls(session: Session, bases: bool) -> None:
    """List images."""
    if bases:
        session.emit("bases", [dataclasses.asdict(one) for one in session.host.images.bases()], _BASES)
        return
    session.emit("images", [describe(one) for one in session.host.images.list()], COLUMNS)


@image.command()
@click.argument("image", shell_complete=image_names)
@verb
def show(session: Session, image: str) -> None:
    """Show one image, and who uses it."""
    found = session.host.images.show(image)
    item = describe(found) if session.format != "table" else for_people(found)
    item["instances"] = list(session.host.images.users(found))
    item["bases"] = [f"{one.where}: {one.name}" for one in session.host.images.bases() if one.image_id == found.id]
    session.emit("image", item)


@image.command()
@click.argument("images", nargs=-1, required=True, shell_complete=image_names)
@click.option("--force", is_flag=True, help="Also when instances were made from it.")
@verb
@destructive
def rm(session: Session, images: tuple[str, ...], force: bool) -> None:
    """Remove IMAGES from the store."""
    found = [session.host.images.show(ref) for ref in dict.fromkeys(images)]
    session.confirm(f"Remove {', '.join(one.name for one in found)}?")
    gone = []
    with output.collecting() as attempt:
        for one in found:
            with attempt():
                session.host.images.remove(one.id, force=force)
                gone.append({"name": one.name, "id": one.id})
        if gone:
            session.emit("removed", gone, {"removed": lambda row: row["name"]})


@image.command()
@click.option("-n", "--dry-run", is_flag=True, help="Only say what would go.")
@verb
@destructive
def prune(session: Session, dry_run: bool) -> None:
    """Remove bases that no disk uses, from the cache and from the backends that keep their own."""
    if not dry_run:
        session.confirm("Remove the bases that no disk uses?")
    with session.working() as host:
        gone = host.images.prune(dry_run=dry_run)
    items = [{"name": one.name, "where": one.place, "size": one.size, "reason": one.reason} for one in gone]
    columns: output.Columns = {
        "base": lambda row: row["name"],
        "where": lambda row: row["where"],
        "freed": _size("size"),
        "why": lambda row: row["reason"],
    }
    session.emit("bases", items, columns)


@image.command()
@click.argument("images", nargs=-1, shell_complete=image_names)
@verb
def verify(session: Session, images: tuple[str, ...]) -> None:
    """Read IMAGES (default: all) and the bases made from them again, and check their digests."""
    with session.working() as host:
        good = []
        with output.collecting() as attempt:
            for ref in images or tuple(one.id for one in host.images.list()):
                with attempt():
                    one = host.images.verify(ref)
                    good.append({"name": one.name, "digest": f"{one.os_hash_algo}:{one.os_hash_value}"})
            columns: output.Columns = {"image": lambda row: row["name"], "digest": lambda row: row["digest"]}
            if good:
                session.emit("verified", good, columns)
