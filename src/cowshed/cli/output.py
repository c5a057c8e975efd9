"""Results on standard output: a table for people, JSON or YAML for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, TypeAlias

from cowshed.errors import CowshedError

SCHEMA_VERSION = 1
FORMATS = ("table", "json", "yaml")

_NAMES = ("name", "id", "option", "subject", "code", "page")  # what -q prints of a row: the first it has

Row: TypeAlias = Mapping[str, Any]
Columns: TypeAlias = Mapping[str, Callable[[Row], Any]]


def emit(format: str, kind: str, item: Row | Sequence[Row], columns: Columns | None, *, quiet: bool = False) -> None:
    """Print ``item`` (one thing or a list of them).

    :param kind: the key it stands under in JSON and YAML, such as ``instances``
    :param columns: of the table: heading to a function of the row; None: a row is a list of key and value
    """
    if quiet:
        rows = [item] if isinstance(item, Mapping) else item
        for row in rows:
            if name := next((str(row[key]) for key in _NAMES if row.get(key) is not None), ""):
                print(printable(name))
    elif format == "json":
        print(json.dumps({"schema_version": SCHEMA_VERSION, kind: item}, indent=2, default=str))
    elif format == "yaml":
        import yaml

        plain = json.loads(json.dumps({"schema_version": SCHEMA_VERSION, kind: item}, default=str))
        print(yaml.safe_dump(plain, sort_keys=False), end="")
    elif isinstance(item, Mapping):
        _pairs(item)
    else:
        _table(item, columns or {})


def _table(rows: Sequence[Row], columns: Columns) -> None:
    cells = [[_text(of(row)) for of in columns.values()] for row in rows]
    lines = [[heading.upper() for heading in columns], *cells]
    widths = [max(len(line[number]) for line in lines) for number in range(len(columns))]
    for line in lines:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _pairs(item: Row) -> None:
    width = max((len(key) for key in item), default=0)
    for key, value in item.items():
        text = _text(value)
        first, *rest = text.split("\n")
        print(f"{key.replace('_', ' '):<{width}}  {first}".rstrip())
        for line in rest:
            print(f"{'':<{width}}  {line}")


def _text(value: Any) -> str:
    if value is None or value == "":
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return "\n".join(f"{key}: {_text(one)}" for key, one in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return "\n".join(_text(one) for one in value) or "-"
    return printable(str(value))


def printable(text: str) -> str:
    """Without control characters: names and sources come from outside."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "?" for letter in text)


def age(since: float) -> str:
    from cowshed.units import format_duration

    return format_duration(max(0.0, time.time() - since))


def moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


class Collecting:
    """Attempts of which each may fail while the others go on; see :func:`collecting`."""

    def __init__(self) -> None:
        self.first: CowshedError | None = None

    @contextmanager
    def __call__(self) -> Iterator[None]:
        try:
            yield
        except CowshedError as error:
            if self.first is None:
                self.first = error
            else:
                note(f"cowshed: {printable(str(error))}")


@contextmanager
def collecting() -> Iterator[Collecting]:
    """Each ``with attempt():`` in the block may fail; the first error is raised at the end of the block."""
    attempts = Collecting()
    yield attempts
    if attempts.first:
        raise attempts.first


def note(text: str, end: str = "\n") -> None:
    """To standard error: for people, not part of the result. What goes on does not end because nobody listens any more."""
    with suppress(OSError):
        print(text, end=end, file=sys.stderr, flush=True)
