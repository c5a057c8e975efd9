"""What volumes and tags are called.

``<uuid>_<disk>`` and ``<uuid>_<disk>_<snapshot>``, where an underscore in a part is written twice,
so that one alone always separates. Device-mapper joins group and volume by a hyphen and writes the
hyphens of both twice.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from cowshed.errors import InvalidRequest

_LONGEST: Final = 126  # characters of a device-mapper name (DM_NAME_LEN is 128), with these behind it:
_OF_DISK: Final = len("-dmcrypt")
_OF_SNAPSHOT: Final = len("-cow")
_UUID = "[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}"
_PART = "(?:[^_]|__)+"
_VOLUME = re.compile(f"({_UUID})_({_PART})(?:_({_PART}))?")
# lvm(8): names of volumes may not contain these.
_RESERVED: Final = re.compile(
    "_(cdata|cmeta|corig|cpool|cvol|iorig|imeta|mimage|mlog|pmspare|rimage|rmeta|tdata|tmeta|vdata|vorigin|wcorig)"
)
_PLAIN = re.compile(r"[A-Za-z0-9_.-]")


def disk_volume(group: str, instance: str, disk: str) -> str:
    """:raises InvalidRequest: LVM has no room for such a name, or keeps it for itself"""
    return _checked(group, f"{instance}_{_doubled(disk)}", _OF_DISK)


def snapshot_volume(group: str, disk_volume: str, snapshot: str) -> str:
    """:raises InvalidRequest: as :func:`disk_volume`"""
    return _checked(group, f"{disk_volume}_{_doubled(snapshot)}", _OF_SNAPSHOT)


def parse(volume: str) -> tuple[str, str, str | None] | None:
    """(instance, disk, snapshot) of a volume's name; None when it is not one of ours."""
    found = _VOLUME.fullmatch(volume)
    if not found:
        return None
    instance, disk, snapshot = found.groups()
    return instance, disk.replace("__", "_"), snapshot.replace("__", "_") if snapshot else None


def _doubled(text: str) -> str:
    return text.replace("_", "__")


def _checked(group: str, name: str, suffix: int) -> str:
    if not re.match(f"{_UUID}_", name):
        raise InvalidRequest(reason=f"{name.partition('_')[0]!r} cannot be the UUID of an instance")
    if found := _RESERVED.search(name):
        raise InvalidRequest(reason=f"LVM keeps names with {found[0]} for itself, so {name} cannot be a volume's")
    if len(mapped(group, name)) + suffix > _LONGEST:
        raise InvalidRequest(reason=f"{name} is too long for the name of a volume", hint="choose a shorter name")
    return name


def mapped(group: str, volume: str) -> str:
    """The device-mapper name."""
    return f"{group.replace('-', '--')}-{volume.replace('-', '--')}"


def node(group: str, volume: str) -> Path:
    """The same with udev and without; a link or a device node."""
    return Path("/dev/mapper") / mapped(group, volume)


def escaped(text: str) -> str:
    """Any text as part of a tag: what LVM does not like there becomes ``+xx`` (hexadecimal UTF-8)."""
    return "".join(
        letter if _PLAIN.match(letter) else "".join(f"+{byte:02x}" for byte in letter.encode()) for letter in text
    )


def unescaped(text: str) -> str:
    plain = re.sub(rb"\+([0-9a-f]{2})", lambda found: bytes([int(found[1], 16)]), text.encode())
    return plain.decode(errors="replace")
