"""Words that several verbs take: KEY=VALUE, and volumes with their options"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from cowshed.config import user
from cowshed.errors import InvalidRequest, PermissionDenied

if TYPE_CHECKING:
    from cowshed.manager.volumes import NewVolume

_FLAGS: Final = ("read-only", "shared", "discard")
_OPTIONS: Final = (
    "format",
    "device",
    "bus",
    "type",
    "id",
    "cache",
    "block-size",
    "user",
    "password-file",
    "key",
    "tag",
)
_LIKE_AN_OPTION: Final = re.compile(r"[a-z_-]+(=[^/,]*)?")


def pairs(words: tuple[str, ...], *, example: str = "hw_disk_bus=scsi") -> dict[str, str]:
    """:raises InvalidRequest: one is not KEY=VALUE, or two say different things of a key"""
    found: dict[str, str] = {}
    for word in words:
        key, sign, value = word.partition("=")
        if not sign or not key:
            raise InvalidRequest(reason=f"{word!r} is not KEY=VALUE", hint=f"for example {example}")
        if found.setdefault(key, value) != value:
            raise InvalidRequest(reason=f"{key} is given twice: {found[key]} and {value}", hint="leave one of them out")
    return found


_LONGEST: Final = 64 * 1024  # of a password; more is no password


def password(path: str | None) -> str:
    """:raises InvalidRequest: :raises PermissionDenied:"""
    if path is None:
        return ""
    try:
        text = sys.stdin.readline(_LONGEST) if path == "-" else _first(user.path(path))
    except PermissionError:
        raise PermissionDenied(action="read", path=path) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(reason=f"the password file {path} cannot be read: {error}") from error
    if len(text) == _LONGEST:
        raise InvalidRequest(reason=f"the password file {path} is too long")
    if not text.rstrip("\r\n"):
        raise InvalidRequest(reason=f"the password file {path} is empty")
    return text.rstrip("\r\n")


def _first(path: Path) -> str:
    with path.open() as file:  # may be a device without an end
        return file.read(_LONGEST)


def sources(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[Any]:
    """For completion: files and devices, and the other forms while nothing of them is written."""
    from click.shell_completion import CompletionItem

    forms = [CompletionItem(form) for form in ("nbd://", "nbd+unix:///", "iscsi://", "rbd:")]
    return [one for one in forms if one.value.startswith(incomplete)] or [CompletionItem(incomplete, type="file")]


def wanted(word: str) -> NewVolume:
    """``SPEC[,OPTION]...`` with the options of ``cowshed volume attach``.

    A comma may also be part of the SPEC: options are what stands behind the last commas, as far as it is known.

    :raises InvalidRequest: an unknown option, or one that is no number
    """
    from cowshed.manager.volumes import NewVolume, Options

    spec, given, limits = _split(word)
    size = given.get("block-size", "0")
    if not size.isdigit():
        raise InvalidRequest(reason=f"block-size={size} is not a number of bytes", hint="such as 4096")
    return NewVolume(
        spec,
        format=given.get("format", ""),
        user=given.get("user", ""),
        password=password(given.get("password-file")),
        volume_id=given.get("id", ""),
        options=Options(
            device=given.get("device", ""),
            bus=given.get("bus", ""),
            type=given.get("type", ""),
            cache=given.get("cache", ""),
            key_id=given.get("key", ""),
            tag=given.get("tag", ""),
            read_only="read-only" in given,
            shared="shared" in given,
            discard="discard" in given,
            logical_block_size=int(size),
            physical_block_size=int(size),
            limits=limits or None,
        ),
    )


def _split(word: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """What the volume is, its options, and its limits."""
    import dataclasses

    from cowshed.model.disk import IoTune

    known = [field.name for field in dataclasses.fields(IoTune)]
    given: dict[str, str] = {}
    limits: dict[str, str] = {}
    spec = word
    while True:
        rest, comma, last = spec.rpartition(",")
        key, sign, value = last.partition("=")
        if comma and sign and key in known:
            limits[key] = value
        elif comma and (key in _OPTIONS if sign else key in _FLAGS):
            given[key] = value
        else:
            break
        spec = rest
    if comma and _LIKE_AN_OPTION.fullmatch(last) and not user.path(spec).exists():
        raise InvalidRequest(
            reason=f"{last} is no option of a volume", hint=f"known: {', '.join([*_FLAGS, *_OPTIONS, *known])}"
        )
    return spec, given, limits
