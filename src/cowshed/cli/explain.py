"""Errors at the door: one sentence, what to do, and the right exit code."""

from __future__ import annotations

import os
import re
import select
import sys
import traceback
from contextlib import suppress

import click

from cowshed.errors import CowshedError, InstanceNotFound

EXIT_CODES = {
    0: "ok",
    1: "failed",
    2: "usage",
    3: "not found",
    4: "conflict",
    5: "no permission",
    6: "the backend cannot",
    7: "timeout",
    8: "no space or precondition",
    130: "interrupted",
}
# A UUID that stands alone. In a path, a lock or a volume's name it is what one would look for there; in brackets and
# quotation marks the name is beside it.
_ALONE = re.compile(r"(?<![\w/.('\"-])[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}(?![\w/'\"-]|\.\w)", re.IGNORECASE)


class PipeBroken(Exception):
    """Its cause, under a name that click does not know: it would make an exit code of its own of it."""


def explain(error: BaseException, *, debug: bool = False) -> int:
    """Say ``error`` on standard error; returns the exit code."""
    if debug and not isinstance(error, (click.exceptions.Exit, click.Abort)):
        traceback.print_exception(error)
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else 1
    # Python wraps what comes while a class is being made in a RuntimeError.
    if isinstance(error, (KeyboardInterrupt, click.Abort)) or isinstance(error.__cause__, KeyboardInterrupt):
        _say("interrupted")
        return 130
    if isinstance(error, PipeBroken) and error.__cause__:
        error = error.__cause__
    if isinstance(error, BrokenPipeError) and _nobody_reads():
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in the buffer goes nowhere
        return 0
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        _say(error.format_message())
        return 2
    sentence, hint, code = _words(error)
    _say(f"cowshed: {_for_people(sentence)}")
    if hint:
        _say(f"  {_for_people(hint)}")
    return code


def _nobody_reads() -> bool:
    """Who read standard output has gone, which is no error of ours (``cowshed ls | head -1``); any other pipe that breaks is."""
    poll = select.poll()
    poll.register(1, 0)
    return bool(poll.poll(0))


def _for_people(text: str) -> str:
    """Instances by the names that people know them by: what knows only UUIDs has written those."""
    return _ALONE.sub(lambda found: _name(found[0].lower()) or found[0], text)


def _name(uuid: str) -> str:
    """Of an instance; "" where there is none, or it cannot be looked up."""
    from cowshed import config
    from cowshed.manager.records import Records

    with suppress(CowshedError, OSError):
        return Records(config.load().state / "cowshed.db").name_of(uuid)
    return ""


def _how_lost(error: CowshedError) -> str:
    """What to do about an instance that we have on record, and libvirt has not."""
    if isinstance(error, InstanceNotFound):
        from cowshed import config
        from cowshed.manager.records import Records

        with suppress(CowshedError, OSError):
            name = Records(config.load().state / "cowshed.db").find(str(error.name)).name
            return f"libvirt does not know it any more: cowshed start {name} defines it again"
    return ""


def _words(error: BaseException) -> tuple[str, str, int]:
    if isinstance(error, CowshedError):
        return str(error), error.hint or _how_lost(error), error.exit_code
    if isinstance(error, click.UsageError):
        where = f"see {error.ctx.command_path} --help" if error.ctx else "see cowshed --help"
        return error.format_message().rstrip("."), where, 2
    if isinstance(error, click.ClickException):
        return error.format_message(), "", error.exit_code
    if isinstance(error, PermissionError):
        return f"no permission: {error.filename or error}", "", 5
    if isinstance(error, OSError) and error.errno in (28, 122):  # ENOSPC, EDQUOT
        return f"no space left: {error.filename or error}", "free some space, then try again", 8
    if isinstance(error, OSError):
        return f"{error.strerror or error}" + (f": {error.filename}" if error.filename else ""), "", 1
    text = f"{type(error).__name__}: {error}"
    return f"unexpected error: {text}", "please report it, with the output of the same command and COWSHED_DEBUG=1", 1


def _say(text: str) -> None:
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        pass
