"""cowshed help"""

from __future__ import annotations

import click

from cowshed.cli.context import Session, Verb, verb
from cowshed.cli.explain import EXIT_CODES

EXIT_TOPIC = "exit-codes"


def _topics(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """For completion: verbs, while no word stands before."""
    from cowshed.cli.app import VERBS

    return [] if ctx.params.get("words") else [one for one in (*VERBS, EXIT_TOPIC) if one.startswith(incomplete)]


@click.command("help", cls=Verb)
@click.argument("words", metavar="[VERB|exit-codes]", nargs=-1, shell_complete=_topics)
@verb
def help_(session: Session, words: tuple[str, ...]) -> None:
    """Show the help of VERB, such as disk snapshot create; what the exit codes mean; or what verbs there are."""
    if words == (EXIT_TOPIC,):
        rows = [{"code": code, "meaning": text} for code, text in EXIT_CODES.items()]
        session.emit("exit_codes", rows, {"code": lambda row: row["code"], "meaning": lambda row: row["meaning"]})
        return
    from cowshed.cli.app import cowshed
    from cowshed.cli.manual import find, outermost

    command, context = find(outermost(cowshed), " ".join(words))
    if session.format == "table":
        print(command.get_help(context))
    else:
        session.emit("help", {"command": context.command_path, "text": command.get_help(context)})
