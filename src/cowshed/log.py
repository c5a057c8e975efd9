"""Loggers that name their subject: an instance, an image, a base."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_FULL = "%(asctime)s %(levelname)s %(name)s: %(subject)s%(message)s"
_PLAIN = "cowshed: %(subject)s%(message)s"  # as the command says everything else to its user
_subject: ContextVar[str] = ContextVar("cowshed_subject", default="")


def logger(name: str) -> logging.Logger:
    """The logger of a module; call it with ``__name__``."""
    return logging.getLogger(name)


@contextmanager
def about(subject: str) -> Iterator[None]:
    """Everything logged in the block, on this thread, is about ``subject``."""
    token = _subject.set(subject)
    try:
        yield
    finally:
        _subject.reset(token)


class SubjectFilter(logging.Filter):
    """Adds ``subject`` to each record, for formatters."""

    def filter(self, record: logging.LogRecord) -> bool:
        subject = _subject.get()
        record.subject = f"[{subject}] " if subject else ""
        return True


def configure(level: int = logging.WARNING) -> None:
    """Send cowshed's log to standard error; what the command does at its start."""
    handler = logging.StreamHandler()
    handler.addFilter(SubjectFilter())
    handler.setFormatter(logging.Formatter(_PLAIN if level >= logging.WARNING else _FULL))
    root = logging.getLogger("cowshed")
    root.handlers[:] = [handler]
    root.setLevel(level)
    root.propagate = False
