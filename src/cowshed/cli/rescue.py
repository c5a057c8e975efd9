"""cowshed rescue, unrescue, rebuild"""

from __future__ import annotations

import click

from cowshed.cli.context import Session, Verb, destructive, image_names, instance_argument, verb
from cowshed.cli.instances import describe
from cowshed.cli.power import COLUMNS


@click.command(cls=Verb)
@instance_argument()
@click.option(
    "--image", required=True, shell_complete=image_names, help="What to boot from: an image, a path or a URL."
)
@verb
def rescue(session: Session, instance: str, image: str) -> None:
    """Boot INSTANCE from another image, with its own disks attached and untouched; unrescue ends it."""
    with session.working() as host, host.images.at_hand(image) as found:
        done = host.instances.rescue(instance, found)
    session.emit("instances", [describe(done)], COLUMNS)
    session.tell_brought()


@click.command(cls=Verb)
@instance_argument()
@verb
def unrescue(session: Session, instance: str) -> None:
    """Boot INSTANCE from its own disks again; the rescue disk is deleted."""
    with session.working() as host:
        session.emit("instances", [describe(host.instances.unrescue(instance))], COLUMNS)


@click.command(cls=Verb)
@instance_argument()
@click.argument("image", shell_complete=image_names)
@click.option("--preserve-ephemeral", is_flag=True, help="Keep the ephemeral and swap disks.")
@verb
@destructive
def rebuild(session: Session, instance: str, image: str, preserve_ephemeral: bool) -> None:
    """Give INSTANCE new disks from IMAGE; its name, addresses and volumes stay.

    So does what run was told of the machine (--firmware, --tpm, --property).

    The new disks are made before the old ones are touched; if it cannot start on them, the old ones are back.
    """
    name = session.host.instances.find(instance).name
    session.confirm(f"Replace the disks of {name} with new ones from {image}?")
    with session.working() as host, host.images.at_hand(image) as found:
        done = host.instances.rebuild(instance, found, preserve_ephemeral=preserve_ephemeral)
    session.emit("instances", [describe(done)], COLUMNS)
    session.tell_brought()
