"""Disk limits from a flavor's extra specs (``quota:disk_read_iops_sec``), checked before libvirt sees them."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Final

from cowshed.errors import InvalidRequest
from cowshed.model.disk import IoTune

PREFIX: Final = "quota:disk_"
LARGEST: Final = 10**15  # QEMU's (include/qemu/throttle.h, THROTTLE_VALUE_MAX)
# The classic words stand for the first six of libvirt's; bytes and operations per second.
_WORDS: Final = tuple(field.name for field in fields(IoTune) if field.name != "group_name")


def iotune(extra_specs: Mapping[str, str]) -> IoTune | None:
    """The limits for each disk, None if there are none. 0 means no limit.

    :raises InvalidRequest: an unknown key, a value that is no number, or two that contradict each other
    """
    values: dict[str, Any] = {}
    for key, text in extra_specs.items():
        if not key.startswith(PREFIX):
            continue
        word = key.removeprefix(PREFIX)
        if word not in _WORDS:
            near = difflib.get_close_matches(word, _WORDS, n=1)
            hint = f"did you mean {PREFIX}{near[0]}?" if near else f"known: {', '.join(_WORDS)}"
            raise InvalidRequest(reason=f"unknown limit {key}", hint=hint)
        if number := _number(key, text):
            values[word] = number
    check(values)
    return IoTune(**values) if values else None


def _number(key: str, text: str) -> int:
    try:
        number = int(str(text))
    except ValueError:
        raise InvalidRequest(reason=f"{key}: {text!r} is not a whole number") from None
    if not 0 <= number <= LARGEST:
        raise InvalidRequest(reason=f"{key}: {number} is not between 0 and {LARGEST}")
    return number


def check(values: Mapping[str, int]) -> None:
    """QEMU's rules (docs/throttle.txt), with our sentences.

    :raises InvalidRequest: two values contradict each other
    """
    for unit in ("bytes_sec", "iops_sec"):
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


def _check_burst(values: Mapping[str, int], base: str) -> None:
    burst, length = f"{base}_max", f"{base}_max_length"
    if length in values and burst not in values:
        raise InvalidRequest(reason=f"{length} needs {burst}")
    if burst in values and base not in values:
        raise InvalidRequest(reason=f"{burst} needs {base}")
    if burst in values and values[burst] < values[base]:
        raise InvalidRequest(reason=f"{burst} ({values[burst]}) is lower than {base} ({values[base]})")
