"""cowshed completion"""

from __future__ import annotations

from typing import Final

import click

from cowshed.cli.context import Session, Verb, verb

# bash breaks words at colons too, which MAC addresses and names of images have: click is asked for whole words, and bash
# given what comes behind the last colon.
_WHOLE_WORDS: Final = r"""
_cowshed_words() {
    local rest=$COMP_LINE part whole=() last=$COMP_CWORD i
    for ((i = 0; i <= COMP_CWORD; i++)); do
        part=${COMP_WORDS[i]}
        if ((i > 1)) && [[ $rest != [[:blank:]]* && ( $part == :* || ${whole[-1]} == *: ) ]]; then
            whole[-1]+=$part
            ((last -= 1))
        else
            whole+=("$part")
        fi
        rest=${rest#*"$part"}
    done
    COMP_WORDS=("${whole[@]}") COMP_CWORD=$last
}

_cowshed_colons() {
    _cowshed_words
    _cowshed_completion "$@"
    local word=${COMP_WORDS[COMP_CWORD]}
    [[ $word != *:* || $COMP_WORDBREAKS != *:* ]] || COMPREPLY=("${COMPREPLY[@]#"${word%"${word##*:}"}"}")
}

complete -o nosort -F _cowshed_colons cowshed
"""


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
    print(kind(cowshed, {}, "cowshed", "_COWSHED_COMPLETE").source(), end="")
    print(_WHOLE_WORDS if shell == "bash" else "")
