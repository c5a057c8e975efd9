"""Disk limits (libvirt's ``<iotune>``), checked before libvirt sees them.

A flavor's extra specs say them: ``quota:disk_read_iops_sec`` for every disk,
``quota:disk_read_iops_sec@swap`` for one. A disk with limits of its own has only those.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any, Final

from cowshed.errors import InvalidRequest
from cowshed.model.disk import IoTune
from cowshed.units import format_size

PREFIX: Final = "quota:disk_"
AT: Final = "@"
LARGEST: Final = 10**15  # QEMU's (include/qemu/throttle.h, THROTTLE_VALUE_MAX)
GROUP: Final = "group_name"
# The classic words stand for the first six of libvirt's; bytes and operations per second.
WORDS: Final = tuple(field.name for field in fields(IoTune))
_UNITS: Final = ("bytes_sec", "iops_sec")
_GROUP_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,63}")  # what QEMU takes as an id


def iotune(extra_specs: Mapping[str, str]) -> IoTune | None:
    """The limits for each disk that has none of its own; None if there are none.

    :raises InvalidRequest: as :func:`by_disk`
    """
    return by_disk(extra_specs)[""]


def by_disk(extra_specs: Mapping[str, str]) -> dict[str, IoTune | None]:
    """The user's word for a disk ("": all others) to its limits. 0 means no limit.

    :raises InvalidRequest: an unknown key, a value that is no number, or two that contradict each other
    """
    found: dict[str, dict[str, int | str]] = {"": {}}
    for key, text in extra_specs.items():
        if not key.startswith(PREFIX):
            continue
        word, at, disk = key.removeprefix(PREFIX).partition(AT)
        if word not in WORDS or (at and not disk):
            raise _unknown(key, word)
        found.setdefault(disk, {})[word] = _value(key, word, str(text))
    return {disk: limits(values) for disk, values in found.items()}


def _unknown(key: str, word: str) -> InvalidRequest:
    near = difflib.get_close_matches(word, WORDS, n=1)
    hint = f"did you mean {PREFIX}{near[0]}?" if near else f"known: {', '.join(WORDS)}"
    return InvalidRequest(reason=f"unknown limit {key}", hint=hint)


def _value(key: str, word: str, text: str) -> int | str:
    return text if word == GROUP else _number(key, text)


def _number(key: str, text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise InvalidRequest(reason=f"{key}: {text!r} is not a whole number") from None


def limits(values: Mapping[str, int | str]) -> IoTune | None:
    """libvirt's names to bytes, operations and seconds; 0 and "" mean that there is no such limit.

    :raises InvalidRequest: an unknown name, a number out of range, or two values that contradict each other
    """
    chosen: dict[str, Any] = {}
    for name, item in values.items():
        if name not in WORDS:
            raise _unknown(name, name)
        if name != GROUP and not 0 <= int(item) <= LARGEST:
            raise InvalidRequest(reason=f"{name}: {item} is not between 0 and {LARGEST}")
        if item:
            chosen[name] = item
    check(chosen)
    return IoTune(**chosen) if chosen else None


def changed(present: IoTune | None, changes: Mapping[str, int | str]) -> IoTune | None:
    """``present`` with ``changes``; 0 and "" take a limit away.

    :raises InvalidRequest: as :func:`limits`
    """
    return limits(values_of(present) | dict(changes))


def values_of(present: IoTune | None) -> dict[str, int | str]:
    """The limits that are set."""
    found = {name: getattr(present, name) for name in WORDS} if present else {}
    return {name: item for name, item in found.items() if item is not None}


def in_words(values: Mapping[str, int | str]) -> dict[str, str]:
    """For people."""
    return {name: _in_words(name, item) for name, item in values.items()}


def _in_words(name: str, item: int | str) -> str:
    """``10 MiB/s`` and the like."""
    if name.endswith("_max_length"):
        return f"{item} s"
    if "bytes_sec" in name:
        return f"{format_size(int(item))}/s"
    return f"{item}/s" if "iops_sec" in name and name != "size_iops_sec" else str(item)


def check(values: Mapping[str, Any]) -> None:
    """QEMU's rules (docs/throttle.txt), with our sentences.

    :raises InvalidRequest: two values contradict each other
    """
    for unit in _UNITS:
        for suffix in ("", "_max"):
            total = f"total_{unit}{suffix}"
            split = [name for name in (f"read_{unit}{suffix}", f"write_{unit}{suffix}") if name in values]
            if total in values and split:
                raise InvalidRequest(
                    reason=f"{total} limits reading and writing together; {split[0]} contradicts it",
                    hint=f"give {total} alone, or one limit each for reading and writing",
                )
        for kind in ("total", "read", "write"):
            _check_burst(values, f"{kind}_{unit}")
    if "size_iops_sec" in values and not any("_iops_sec" in name and name != "size_iops_sec" for name in values):
        raise InvalidRequest(reason="size_iops_sec needs a limit of operations (..._iops_sec) to apply to")
    if group := values.get(GROUP):
        _check_group(values, str(group))


def _check_burst(values: Mapping[str, Any], base: str) -> None:
    burst, length = f"{base}_max", f"{base}_max_length"
    if length in values and burst not in values:
        raise InvalidRequest(reason=f"{length} needs {burst}")
    if burst in values and base not in values:
        raise InvalidRequest(reason=f"{burst} needs {base}")
    if burst in values and values[burst] < values[base]:
        raise InvalidRequest(reason=f"{burst} ({values[burst]}) is lower than {base} ({values[base]})")
    if length in values and values[length] > LARGEST // values[burst]:
        raise InvalidRequest(
            reason=f"{length} ({values[length]} s) is too long for a burst of {values[burst]}",
            hint=f"at most {LARGEST // values[burst]} s",
        )


def _check_group(values: Mapping[str, Any], group: str) -> None:
    if not _GROUP_NAME.fullmatch(group):
        raise InvalidRequest(
            reason=f"{GROUP}: {group!r} cannot name a group", hint="a letter, then letters, digits and ._-, 64 at most"
        )
    if len(values) == 1:
        raise InvalidRequest(reason=f"{GROUP} names disks that share a limit, and no limit is given")


def check_groups(named: Iterable[tuple[str, IoTune | None]]) -> None:
    """Disks (name, limits) of one group share the same limits.

    :raises InvalidRequest: two differ
    """
    seen: dict[str, tuple[str, IoTune]] = {}
    for name, tune in named:
        if tune is None or tune.group_name is None:
            continue
        first, same = seen.setdefault(tune.group_name, (name, tune))
        if tune != same:
            raise InvalidRequest(
                reason=f"the disks {first} and {name} are in the group {tune.group_name}, but their limits differ",
                hint="disks of one group share one limit: give all of them the same",
            )
