"""cowshed snapshot create"""

from __future__ import annotations

import time

import click

from cowshed.cli.context import Group, Session, instance_argument, verb
from cowshed.cli.images import COLUMNS, describe, for_people
from cowshed.cli.words import pairs


@click.group(cls=Group)
def snapshot() -> None:
    """Images made of instances. (Points in time of their disks: cowshed disk snapshot.)"""


@snapshot.command()
@instance_argument()
@click.option("-n", "--name", default="", help="Of the image; default: the instance's name and the time.")
@click.option(
    "--property", "properties", multiple=True, metavar="KEY=VALUE", help="Beside those of its image; repeatable."
)
@click.option("--all-disks", is_flag=True, help="One image of each disk, all at one point in time.")
@verb
def create(session: Session, instance: str, name: str, properties: tuple[str, ...], all_disks: bool) -> None:
    """Make an image of the root disk of INSTANCE, which may run.

    A running guest goes on. Its file systems are quiet for a moment where its agent can do that; without an agent the image
    is what the disk would be after a power cut. Encrypted disks are refused.

    With --all-disks the other disks (not swap, no volumes) become images NAME-eph0, ..., with the same property
    snapshot_set; snapshot_disk says which disk each was.
    """
    with session.working() as host:
        name = name or f"{host.machine(instance).name}-{time.strftime('%Y%m%d-%H%M%S')}"
        if all_disks:
            many = host.images.capture_all(instance, name, properties=pairs(properties))
            session.emit("images", [describe(one) for one in many], COLUMNS)
            return
        found = host.images.capture(instance, name, properties=pairs(properties))
    session.emit("image", describe(found) if session.format != "table" else for_people(found))
