"""A list of inverses: each step registers how to take it back."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import ParamSpec

from cowshed import log
from cowshed.errors import CowshedError

_log = log.logger(__name__)

_P = ParamSpec("_P")
_LEFT = "could not "  # how a note of an error begins that tells of it


class Undo:
    """Leaving the block with an error runs the inverses, last first, and re-raises the first error.

    An inverse that fails is logged and the others still run, so clean-up never hides why it was
    needed; :func:`is_complete` tells. Leaving without an error drops the list::

        with Undo() as undo:
            path.mkdir()
            undo.push("remove the directory", path.rmdir)
    """

    def __init__(self) -> None:
        self._steps: list[tuple[str, Callable[[], object]]] = []

    def push(self, what: str, inverse: Callable[_P, object], *args: _P.args, **kwargs: _P.kwargs) -> None:
        """Register ``inverse``; ``what`` names it in the log."""
        self._steps.append((what, lambda: inverse(*args, **kwargs)))

    def drop(self) -> None:
        """Everything so far stays, whatever happens next."""
        self._steps.clear()

    def run(self) -> list[str]:
        """Take everything back now; returns what could not be."""
        failed = []
        while self._steps:
            what, inverse = self._steps.pop()
            try:
                inverse()
            except CowshedError as error:
                failed.append(what)
                _log.warning("could not %s: %s", what, error)
                _log.debug("where that comes from", exc_info=True)
            except Exception:  # noqa: BLE001 - clean-up goes on, whatever one step does
                failed.append(what)
                _log.exception("could not %s", what)
        return failed

    def __enter__(self) -> Undo:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for what in self.run():
                error.add_note(f"{_LEFT}{what}")


def is_complete(error: BaseException) -> bool:
    """Was everything taken back on the way out with ``error``?"""
    return not any(note.startswith(_LEFT) for note in getattr(error, "__notes__", ()))
