"""Migrate data: what the two hosts of a live migration tell each other, as JSON. The contract carries it between calls.

By whom it is set, and in which call:

* destination, first check: ``filename`` (in the directory of instances, shows whether that is shared), ``block_migration``
  (None: as the storage demands), ``disk_over_commit``, ``available`` (bytes free by backend), ``qemu`` (its version),
  ``tls_lacks`` (files that QEMU's TLS would need there);
* source, second check: ``is_shared_instance_path``, ``block_migration`` (now decided), ``disks`` (lines of the manifest),
  ``copied`` (disk to target, those whose content QEMU copies), ``records`` (small files beside the disks), ``content``
  (of small read-only disks), ``cpu``, ``machine``, ``arch``, ``virt_type``, ``volumes``, ``ran`` (it is not paused);
* destination, preparation: ``xml`` (the domain as it is there), ``shallow`` (what lies below overlays is there already),
  ``address``, ``held`` (it arrives paused, until its packet filters are in force);
* source, in the move: ``still`` (it stands while it is copied);
* source, at the end: ``error`` or ``statistics``; ``open`` (nobody can say yet where it runs: nothing is taken back).
"""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, TypeVar, Union, get_args, get_origin, get_type_hints

from cowshed.errors import InvalidRequest

VERSION: Final = 1
T = TypeVar("T")

_FACTS: Final[Mapping[str, Any]] = {
    "filename": str,
    "block_migration": bool | None,
    "disk_over_commit": bool,
    "available": dict[str, int],
    "qemu": list[int],
    "tls_lacks": list[str],
    "is_shared_instance_path": bool,
    "disks": list[dict[str, Any]],
    "copied": dict[str, str],
    "records": dict[str, str],
    "content": dict[str, str],
    "cpu": str,
    "machine": str,
    "arch": str,
    "virt_type": str,
    "volumes": list[dict[str, Any]],
    "ran": bool,
    "xml": str,
    "shallow": bool,
    "address": str,
    "held": bool,
    "still": bool,
    "error": str,
    "statistics": dict[str, Any],
    "open": bool,
}

# What a call cannot do without: what those before it have said.
OF_TARGET: Final = ("filename", "available", "qemu")
OF_SOURCE: Final = (
    "is_shared_instance_path", "disks", "copied", "records", "content", "cpu", "machine", "arch", "virt_type", "volumes", "ran",
)  # fmt: skip
OF_PREPARATION: Final = ("is_shared_instance_path", "copied", "xml", "shallow", "address", "held")


def made(**facts: Any) -> dict[str, Any]:
    return {"version": VERSION, **facts}


def checked(data: Any, *needed: str) -> dict[str, Any]:
    """``data`` itself, where it is ours, has what is ``needed``, and each of its facts is of its kind.

    :raises InvalidRequest: with the name of what is wrong
    """
    if not isinstance(data, dict) and not isinstance(data, Mapping):
        raise InvalidRequest(reason="there is no migrate data: the checks of a live migration come first")
    if data.get("version") != VERSION:
        raise InvalidRequest(
            reason=f"the other host's migrate data is of version {data.get('version')}, this host's is {VERSION}",
            hint="use the same cowshed on both",
        )
    if missing := [name for name in needed if name not in data]:
        raise InvalidRequest(reason=f"the migrate data lacks {', '.join(missing)}: a check was left out")
    for name, kind in _FACTS.items():
        if name in data and not _fits(data[name], kind):
            raise InvalidRequest(reason=f"{name} of the migrate data is {data[name]!r:.60}, which is no {_word(kind)}")
    return data if isinstance(data, dict) else dict(data)


def lines(name: str, found: Iterable[Mapping[str, Any]], make: Callable[[dict[str, Any]], T]) -> list[T]:
    """What ``make`` makes of each of the records ``found``, whose fields have the types they are declared with.

    :param name: of the fact in which they are
    :raises InvalidRequest:
    """
    try:
        made = [make(dict(line)) for line in found]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InvalidRequest(reason=f"{name} of the migrate data cannot be read: {error!r}") from error
    for one in made:
        if field := _misfit(one):
            raise InvalidRequest(reason=f"{field} in {name} of the migrate data is {getattr(one, field)!r:.60}")
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
