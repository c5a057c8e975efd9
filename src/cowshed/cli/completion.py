"""cowshed completion"""

from __future__ import annotations

import click

from cowshed.cli.context import Session, Verb, verb


@click.command(cls=Verb)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@verb
def completion(session: Session, shell: str) -> None:
    """Print the completion script of SHELL.

    \b
    bash: cowshed completion bash > ~/.local/share/bash-completion/completions/cowshed
    zsh:  cowshed completion zsh > a folder of $fpath, as _cowshed
    fish: cowshed completion fish > ~/.config/fish/completions/cowshed.fish
    """
    from click.shell_completion import get_completion_class

    from cowshed.cli.app import cowshed

    kind = get_completion_class(shell)
    assert kind is not None
    print(kind(cowshed, {}, "cowshed", "_COWSHED_COMPLETE").source())
