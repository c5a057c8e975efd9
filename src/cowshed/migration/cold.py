"""What the two hosts of a cold move say to each other, as JSON, before the content of the disks follows.

* source, the offer: ``arch``, ``memory`` (bytes), ``probe`` (a file in the instance's directory, shows whether that is shared),
  ``disks`` (lines of the manifest), ``allocated`` (bytes by disk), ``bases`` (bytes by file name, of what they stand on),
  ``records`` (small files beside the disks), ``volumes``, ``passwords`` (by volume), ``tpm`` (its version, "" where there is
  none);
* destination, the plan: ``shared`` (the directory is), ``modes`` (disk to how it comes), ``bases`` (file names of those that
  must come first), ``keys`` (the disks whose keys must come);
* source, when the guest is off: ``keys`` (by disk, base64), ``nvram``, ``tpm`` (what they remember by then).
"""

from __future__ import annotations

import base64
from collections.abc import Collection, Mapping
from typing import Any, Final

from cowshed.errors import InvalidRequest
from cowshed.migration import shape

OFFER: Final = "the offer of the other host"  # as they are called in errors
PLAN: Final = "the other host's answer to the offer"
LAST: Final = "the last word of the other host"

_SAME: Final = "use the same cowshed on both hosts"
_OF_OFFER: Final[Mapping[str, Any]] = {
    "arch": str,
    "memory": int,
    "probe": str,
    "disks": list[dict[str, Any]],
    "allocated": dict[str, int],
    "bases": dict[str, int],
    "records": dict[str, str],
    "volumes": list[dict[str, Any]],
    "passwords": dict[str, str],
    "tpm": str,
}
_OF_PLAN: Final[Mapping[str, Any]] = {
    "shared": bool,
    "modes": dict[str, str],
    "bases": list[str],
    "keys": list[str],
}
_OF_LAST: Final[Mapping[str, Any]] = {"keys": dict[str, str], "nvram": str, "tpm": dict[str, str]}


def check_offer(found: Mapping[str, Any]) -> None:
    """:raises InvalidRequest: with the name of what is missing, or of another kind"""
    _check(found, _OF_OFFER, OFFER)


def check_plan(
    found: Mapping[str, Any],
    *,
    disks: Collection[str],
    modes: Collection[str],
    bases: Collection[str],
    sealed: Collection[str],
) -> None:
    """:param disks: that were offered, of them ``sealed`` are encrypted; ``bases`` are what they stand on
    :raises InvalidRequest: also where it is of other disks than these
    """
    _check(found, _OF_PLAN, PLAN)
    for name, known, wanted in (
        ("modes", disks, found["modes"]),
        ("modes", modes, found["modes"].values()),
        ("bases", bases, found["bases"]),
        ("keys", sealed, found["keys"]),
    ):
        if strange := [one for one in wanted if one not in known]:
            raise InvalidRequest(reason=f"{name} of {PLAN} has {strange[0]!r:.60}, which is not known here", hint=_SAME)
    if missing := [name for name in disks if name not in found["modes"]]:
        raise InvalidRequest(reason=f"modes of {PLAN} lacks {', '.join(missing)}", hint=_SAME)


def check_last(found: Mapping[str, Any]) -> None:
    """:raises InvalidRequest:"""
    _check(found, _OF_LAST, LAST)


def keys(found: Mapping[str, Any], wanted: Collection[str]) -> dict[str, bytes]:
    """Of the last word, those of the disks ``wanted``. :raises InvalidRequest: one is missing, or is no key"""
    told = found["keys"]
    if missing := [name for name in wanted if name not in told]:
        raise InvalidRequest(reason=f"keys of {LAST} lacks {', '.join(missing)}", hint=_SAME)
    try:
        return {name: base64.b64decode(told[name], validate=True) for name in wanted}
    except ValueError as error:
        raise InvalidRequest(reason=f"keys of {LAST} cannot be read: {error}") from error


def _check(found: Mapping[str, Any], kinds: Mapping[str, Any], what: str) -> None:
    if missing := [name for name in kinds if name not in found]:
        raise InvalidRequest(reason=f"{what} lacks {', '.join(missing)}", hint=_SAME)
    shape.facts(found, kinds, what)
