"""Whether what another host says is of the shape that it must have, before anything is done with it.

It is JSON: whatever was lost or mangled on the way, and whatever another version says, is refused by its name.
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from cowshed.errors import InvalidRequest

S = TypeVar("S")
T = TypeVar("T")


def facts(found: Any, kinds: Mapping[str, Any], what: str) -> None:
    """Each of the facts that are there is of its kind.

    :param what: they are in, such as ``the migrate data``
    :raises InvalidRequest: with the name of what is wrong
    """
    for name, kind in kinds.items():
        if name in found and not _fits(found[name], kind):
            raise InvalidRequest(reason=f"{name} of {what} is {found[name]!r:.60}, which is no {_word(kind)}")


def lines(name: str, found: Iterable[Mapping[str, Any]], make: Callable[[dict[str, Any]], T], what: str) -> list[T]:
    """What ``make`` makes of each of the records ``found``, whose fields have the types they are declared with.

    :param name: of the fact in which they are :param what: that is in
    :raises InvalidRequest:
    """
    return [one(f"{name} of {what}", dict(line), make) for line in found]


def one(what: str, found: S, make: Callable[[S], T]) -> T:
    """What ``make`` makes of ``found``, whose fields have the types they are declared with. :raises InvalidRequest:"""
    try:
        made = make(found)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidRequest(reason=f"{what} cannot be read: {error!r}") from error
    if field := _misfit(made):
        raise InvalidRequest(reason=f"{field} in {what} is {getattr(made, field)!r:.60}")
    return made


# --- types of what has come -----------------------------------------------------------------------


def _misfit(value: Any) -> str:
    """The first field of a dataclass that has not the type it is declared with; "" if there is none."""
    hints = get_type_hints(type(value))
    names = [field.name for field in dataclasses.fields(value)]
    return next((name for name in names if not _fits(getattr(value, name), hints[name])), "")


def _fits(value: Any, kind: Any) -> bool:
    """A list stands for a tuple, too: JSON has no other. A truth is no number."""
    if kind is Any:
        return True
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return any(_fits(value, one) for one in inner)
    if origin in (list, tuple):
        return isinstance(value, list | tuple) and all(_fits(one, inner[0]) for one in value)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping) and all(
            _fits(name, inner[0]) and _fits(one, inner[1]) for name, one in value.items()
        )
    if isinstance(kind, type) and dataclasses.is_dataclass(kind):
        return isinstance(value, kind) and not _misfit(value)
    if kind in (int, float):
        return isinstance(value, int | kind) and not isinstance(value, bool)
    return isinstance(value, kind)


def _word(kind: Any) -> str:
    return kind.__name__ if isinstance(kind, type) and not get_args(kind) else str(kind).replace("typing.", "")
