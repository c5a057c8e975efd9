"""cowshed resize"""

from __future__ import annotations

import click

from cowshed.cli import output
from cowshed.cli.context import Session, Verb, instance_argument, verb
from cowshed.cli.instances import describe
from cowshed.cli.power import COLUMNS


@click.command(cls=Verb)
@instance_argument()
@click.option("--cpus", type=int, help="How many virtual CPUs.")
@click.option("--memory", metavar="SIZE", help="How much memory, such as 2G.")
@click.option("--disk", metavar="SIZE", help="Size of the root disk; it can only grow.")
@click.option("--confirm", is_flag=True, help="Keep the last resize.")
@click.option("--revert", is_flag=True, help="Take the last resize back, and what was written since.")
@verb
def resize(
    session: Session, instance: str, cpus: int | None, memory: str | None, disk: str | None, confirm: bool, revert: bool
) -> None:
    """Restart INSTANCE with other CPUs, memory, or a larger root disk.

    What it was is kept until --confirm or --revert.
    """
    changes = {"--cpus": cpus, "--memory": memory, "--disk": disk}
    _check([option for option, value in changes.items() if value is not None], confirm=confirm, revert=revert)
    with session.working() as host:
        if confirm:
            done = host.migrations.confirm(instance)
        elif revert:
            done = host.migrations.revert(instance)
        else:
            seconds = host.config.power.shutdown_timeout
            done = host.migrations.resize(instance, cpus=cpus, memory=memory, disk=disk, timeout=seconds)
            output.note(
                f"keep it: cowshed resize {done.name} --confirm; take it back: cowshed resize {done.name} --revert"
            )
        session.emit("instances", [describe(done)], COLUMNS)


def _check(changes: list[str], *, confirm: bool, revert: bool) -> None:
    """:raises click.UsageError: not exactly one thing is asked for"""
    if confirm and revert:
        raise click.UsageError("--confirm and --revert exclude each other")
    if (confirm or revert) and changes:
        option = "--confirm" if confirm else "--revert"
        raise click.UsageError(f"{option} ends the last resize, and excludes {', '.join(changes)}")
    if not (confirm or revert or changes):
        raise click.UsageError("say what shall change (--cpus, --memory, --disk), or --confirm or --revert")
