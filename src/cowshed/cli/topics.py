"""cowshed help"""

from __future__ import annotations

import click

from cowshed.cli.context import Session, Verb, verb
from cowshed.cli.explain import EXIT_CODES


@click.command("help", cls=Verb)
@click.argument("topic", type=click.Choice(["exit-codes"]), default="exit-codes")
@verb
def help_(session: Session, topic: str) -> None:
    """Explain what the exit codes mean."""
    rows = [{"code": code, "meaning": text} for code, text in EXIT_CODES.items()]
    session.emit("exit_codes", rows, {"code": lambda row: row["code"], "meaning": lambda row: row["meaning"]})
