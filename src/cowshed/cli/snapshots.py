"""cowshed snapshot create"""

from __future__ import annotations

import time

import click

from cowshed.cli.context import Session, instance_argument, verb
from cowshed.cli.images import describe, for_people
from cowshed.cli.run import pairs


@click.group()
def snapshot() -> None:
    """Images made of instances. (Points in time of their disks: cowshed disk snapshot.)"""


@snapshot.command()
@instance_argument()
@click.option("-n", "--name", default="", help="Of the image; default: the instance's name and the time.")
@click.option("--property", "properties", multiple=True, metavar="KEY=VALUE", help="Beside those of its image.")
@verb
def create(session: Session, instance: str, name: str, properties: tuple[str, ...]) -> None:
    """Make an image of the root disk of INSTANCE.

    It must be stopped, unless its disk is in storage that takes snapshots under a running guest (rbd). Then the image is
    what the disk would be after a power cut.
    """
    with session.working() as host:
        name = name or f"{host.machine(instance).name}-{time.strftime('%Y%m%d-%H%M%S')}"
        found = host.images.capture(instance, name, properties=pairs(properties))
    session.emit("image", describe(found) if session.format != "table" else for_people(found))
