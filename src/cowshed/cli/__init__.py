"""The command. ``main`` is the entry point; every verb is imported when it is used."""

from __future__ import annotations

import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code (see ``cowshed help exit-codes``)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["--version"]:  # answered before anything is loaded
        from cowshed import __version__

        print(f"cowshed {__version__}")
        return
    if words in (["ls"], ["list"], ["ps"]):
        from cowshed.cli import quick

        if quick.ls():
            return
    from cowshed.cli.app import run

    sys.exit(run(words))
