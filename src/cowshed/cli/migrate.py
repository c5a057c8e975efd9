"""cowshed migrate"""

from __future__ import annotations

import click

from cowshed.cli import output
from cowshed.cli.context import Session, Verb, instance_argument, verb
from cowshed.units import format_size, parse_duration

# What libvirt tells of a live one; of a cold one there is nothing to tell.
COLUMNS: output.Columns = {
    "name": lambda row: row["name"],
    "host": lambda row: row["host"],
    "took": lambda row: f"{row['elapsed']:.1f} s" if "elapsed" in row else "",
    "downtime": lambda row: f"{row['downtime']} ms" if "downtime" in row else "",
    "sent": lambda row: format_size(row["bytes"]) if "bytes" in row else "",
}


@click.command(cls=Verb)
@instance_argument()
@click.argument("dest")
@click.option("--live", is_flag=True, help="While it runs.")
@click.option("--cold", is_flag=True, help="Stopped on the way; its disks are copied and compared.")
@click.option(
    "--timeout",
    metavar="TIME",
    help="With --cold: how long the guest may take to shut down; default: as configured.",
)
@verb
def migrate(session: Session, instance: str, dest: str, live: bool, cold: bool, timeout: str | None) -> None:
    """Move INSTANCE to the host DEST, where cowshed is installed too; its record goes with it.

    How the other host is reached is said in [migration] of the configuration. ^C gives the move up: it runs here as before.
    """
    if live == cold:
        raise click.UsageError("say either --live or --cold" if live else "say --live or --cold")
    if live and timeout:
        raise click.UsageError("--timeout is for a guest that shuts down: it goes with --cold")
    with session.working() as host:
        name = host.instances.find(instance).name
        told: dict[str, object] = {"name": name, "host": dest}
        if live:
            told |= host.migrations.live(instance, dest)
        else:
            seconds = parse_duration(timeout) if timeout else host.config.power.shutdown_timeout
            host.migrations.cold(instance, dest, timeout=seconds)
        session.emit("migrations", [told], COLUMNS)
