"""Connection info: what is read from it, in one place, and what is never written down."""

from __future__ import annotations

import re
import stat
import uuid as uuids
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from cowshed.contract.connecting import ConnectionInfo
from cowshed.errors import InvalidRequest

PASSWORDS: Final = ("auth_password", "discovery_auth_password", "keyring", "password")
_ID: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_NAMESPACE: Final = uuids.UUID("5b0f6a4e-2f5d-4f0b-9a44-7d9d6b1f2c10")


def type_of(info: ConnectionInfo) -> str:
    """:raises InvalidRequest: it does not say"""
    kind = info.get("driver_volume_type")
    if not isinstance(kind, str) or not kind:
        raise InvalidRequest(reason="the connection info has no driver_volume_type")
    return kind


def data(info: ConnectionInfo) -> Mapping[str, Any]:
    """:raises InvalidRequest: there is none"""
    found = info.get("data")
    if not isinstance(found, Mapping):
        raise InvalidRequest(reason=f"the connection info of type {info.get('driver_volume_type')} has no data")
    return found


def text(info: ConnectionInfo, name: str) -> str:
    """A value of ``data`` that must be there. :raises InvalidRequest: it is not"""
    found = data(info).get(name)
    if not isinstance(found, str) or not found:
        raise InvalidRequest(reason=f"a volume of type {type_of(info)} needs {name}")
    return found


def volume_id(info: ConnectionInfo) -> str:
    """The volume's identity: what the service calls it, else one that follows from where it is.

    :raises InvalidRequest: it is no name
    """
    found = info.get("serial") or info.get("volume_id") or data(info).get("volume_id")
    if not found:
        return str(uuids.uuid5(_NAMESPACE, place(info)))
    if not _ID.fullmatch(str(found)):
        raise InvalidRequest(reason=f"{found!r} does not name a volume", hint="letters, digits, dot, dash, underscore")
    return str(found)


def place(info: ConnectionInfo) -> str:
    """Where the volume is, in one line: the same for whoever uses it."""
    kind, found = type_of(info), data(info)
    words = ("export", "name", "device_path", "path", "host", "port", "socket", "target_portal", "target_iqn")
    wanted = (*words, "target_lun", "target_wwn", "target_nqn", "nqn")
    return "|".join([kind, *(f"{word}={found[word]}" for word in wanted if found.get(word) not in (None, ""))])


def is_same(one: ConnectionInfo, other: ConnectionInfo) -> bool:
    """By identity, or by where it is."""
    return volume_id(one) == volume_id(other) or is_same_place(one, other)


def is_same_place(one: ConnectionInfo, other: ConnectionInfo) -> bool:
    """Also by another name for the same file or device of this host (a link, a node)."""
    if place(one) == place(other):
        return True
    mine = _on_this_host(one)
    return mine is not None and mine == _on_this_host(other)


def _on_this_host(info: ConnectionInfo) -> tuple[int, ...] | None:
    """What the kernel calls the file or device; None: it is none, or not there."""
    path = data(info).get("path") or data(info).get("device_path")
    try:
        facts = Path(path).stat() if isinstance(path, str) and path else None
    except (OSError, ValueError):
        return None
    if facts is None:
        return None
    return (facts.st_rdev,) if stat.S_ISBLK(facts.st_mode) else (facts.st_dev, facts.st_ino)


def secret_uuid(info: ConnectionInfo) -> str:
    """The UUID of libvirt's secret with this volume's password: found again without a record."""
    return str(uuids.uuid5(_NAMESPACE, f"secret {volume_id(info)}"))


def without_passwords(info: ConnectionInfo) -> dict[str, Any]:
    """What may be written beside the disks of an instance."""
    kept = {key: value for key, value in data(info).items() if key not in PASSWORDS}
    return {**{key: value for key, value in info.items() if key != "instance"}, "data": kept}
