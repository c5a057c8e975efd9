"""The command. ``main`` is the entry point; every verb is imported when it is used."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command and exit with its code (see ``cowshed help exit-codes``)."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _reopen()
    _print_all(sys.stdout)
    try:
        code = _run(words)
    except KeyboardInterrupt:  # while something was still being loaded, or already being left
        print("interrupted", file=sys.stderr)
        code = INTERRUPTED
    except OSError as error:  # of what is answered before there is a verb: nobody reads it, or its disk is full
        code = _explained(error)
    _finish()
    sys.exit(code)


def _reopen() -> None:
    """Give the streams that we were started without (``>&-``) to nobody.

    Else the next file that is opened, a database or a disk, has their number, and what is printed by us
    or by a tool goes into it.
    """
    import os

    while (number := os.open(os.devnull, os.O_RDWR)) < 3:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _print_all(stream: object) -> None:
    """A name with a letter that the terminal's character set lacks is printed with its number: no reason to fail."""
    if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
        stream.reconfigure(errors="backslashreplace")


def _finish() -> None:
    """All is done: ^C while Python is being left would only change the exit code.

    So would one that came while some module ran code from a text, as dataclasses do: Python notes that it was not
    handled there, and ``python -m`` ends by killing itself, whoever has handled it since. The note goes when the next
    code from a text is run.
    """
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    exec("")  # noqa: S102


def _run(words: list[str]) -> int:
    if words == ["--version"]:  # answered before anything is loaded
        from cowshed import __version__

        print(f"cowshed {__version__}")
        return _written()
    if words in (["ls"], ["list"], ["ps"]):
        from cowshed.cli import quick

        if quick.ls():
            return _written()
    from cowshed.cli.app import run

    return run(words)


def _written() -> int:
    """0 when all is on its way to the reader."""
    sys.stdout.flush()
    return 0


def _explained(error: OSError) -> int:
    """Also 0, when there is no reader any more (``| head -1``)."""
    import os

    from cowshed.cli.explain import explain

    code = explain(error)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in the buffer goes nowhere
    return code
