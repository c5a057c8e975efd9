"""cowshed serve: what another host's cowshed talks to, over standard input and output."""

from __future__ import annotations

import os
import sys

import click

from cowshed.cli.context import Session, Verb, verb


@click.command(cls=Verb)
@verb
def serve(session: Session) -> None:
    """Answer another host's cowshed on standard input and output; it ends with its input.

    Other hosts run this (see [migration] command) to move instances here. Only a fixed list of calls is answered.
    """
    from cowshed.manager import service
    from cowshed.migration.transport import Channel

    writer = os.dup(sys.stdout.fileno())
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # whatever is printed by chance is no answer
    service.serve(session.host, Channel(sys.stdin.fileno(), writer, silence=service.SILENCE))
