"""LVM's JSON reports as values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cowshed import log
from cowshed.errors import DataCorrupt, NotFound, ToolFailed
from cowshed.tools import privilege
from cowshed.tools.lvm.names import escaped, unescaped

_log = log.logger(__name__)

_REPORT = ("--reportformat", "json", "--units", "b", "--nosuffix", "-o")
_VOLUME_FIELDS = (
    "lv_name,lv_uuid,lv_size,lv_attr,lv_tags,lv_active,lv_device_open,origin,pool_lv,segtype,zero,data_percent"
)
_GROUP_FIELDS = "vg_name,vg_size,vg_free,vg_extent_size"
_TRIES = 3
OURS = "cowshed"


@dataclass(frozen=True, slots=True)
class Group:
    """Sizes in bytes."""

    name: str
    size: int
    free: int
    extent: int


@dataclass(frozen=True, slots=True)
class Volume:
    """``size`` in bytes; ``used``: share of it that holds data, 0 to 1 (1 where LVM does not say).

    ``tags``: ours, as :func:`tags` writes them; ``ours``: it has our tag; ``open``: a
    guest, a tool or a mapping holds it.
    """

    group: str
    name: str
    uuid: str
    size: int
    kind: str
    origin: str
    pool: str
    active: bool
    open: bool
    zeroes: bool
    used: float
    ours: bool
    tags: Mapping[str, str]

    @property
    def thin(self) -> bool:
        return self.kind == "thin"


def tags(**facts: str) -> list[str]:
    """``cowshed``, and one tag for each fact, whose name's hyphens are written as underscores here."""
    return [OURS, *(tag_of(name, value) for name, value in facts.items())]


def tag_of(name: str, value: str) -> str:
    return f"{OURS}.{name.replace('_', '-')}={escaped(value)}"


def group(name: str) -> Group:
    """:raises NotFound: there is no such volume group"""
    rows = _report("vgs", "vg", _GROUP_FIELDS, name)
    if not rows:
        raise _missing(name)
    row = rows[0]
    return Group(row["vg_name"], int(row["vg_size"]), int(row["vg_free"]), int(row["vg_extent_size"]))


def volumes(group: str) -> dict[str, Volume]:
    """All volumes of the group by name, LVM's hidden ones too. :raises NotFound: there is no such group"""
    return {
        volume.name: volume for volume in (_volume(group, row) for row in _report("lvs", "lv", _VOLUME_FIELDS, group))
    }


def volume(group: str, name: str) -> Volume | None:
    return volumes(group).get(name)


def pool_usage(group: str, pool: str) -> tuple[float, float]:
    """Shares of a thin pool's data and metadata that are in use, 0 to 1.

    :raises NotFound: there is no such group, or no thin pool of this name in it
    """
    for row in _report("lvs", "lv", "lv_name,segtype,data_percent,metadata_percent", group):
        if row["lv_name"] == pool and row["segtype"] == "thin-pool":
            return float(row["data_percent"] or 0) / 100, float(row["metadata_percent"] or 0) / 100
    raise NotFound(kind="thin pool", name=f"{group}/{pool}", hint="[lvm] thin_pool names it")


def pool_free(pool: Volume) -> int:
    """Bytes that can still be written to volumes of this thin pool."""
    return int(pool.size * (1 - pool.used))


def _volume(group: str, row: dict[str, str]) -> Volume:
    written = row["lv_tags"].split(",")
    facts = (tag.removeprefix(f"{OURS}.").partition("=") for tag in written if tag.startswith(f"{OURS}."))
    return Volume(
        group=group,
        name=row["lv_name"].strip("[]"),
        uuid=row["lv_uuid"],
        size=int(row["lv_size"]),
        kind=row["segtype"],
        origin=row["origin"].strip("[]"),
        pool=row["pool_lv"].strip("[]"),
        active=row["lv_active"] == "active",
        open=row["lv_device_open"] == "open",
        zeroes=row["zero"] == "zero",
        used=float(row["data_percent"]) / 100 if row["data_percent"] else 1.0,
        ours=OURS in written,
        tags={name: unescaped(value) for name, _, value in facts},
    )


def _report(tool: str, key: str, fields: str, group: str) -> list[dict[str, str]]:
    words = [tool, *(["-a"] if tool == "lvs" else []), *_REPORT, fields, group]
    try:
        return _rows(_patiently(words), key, tool)
    except ToolFailed as error:
        if "not found" in error.output:
            raise _missing(group) from error
        raise


def _patiently(words: list[str]) -> bytes:
    """Tried again when LVM dies of a signal: the reporting commands have been seen to (Launchpad 1931710)."""
    for _ in range(_TRIES - 1):
        try:
            return privilege.run(words, timeout=60).stdout
        except ToolFailed as error:
            if error.status >= 0:
                raise
            _log.warning("%s died of signal %d; trying again", words[0], -error.status)
    return privilege.run(words, timeout=60).stdout


def _rows(text: bytes, key: str, tool: str) -> list[dict[str, str]]:
    try:
        report: dict[str, Any] = json.loads(text)
        rows: list[dict[str, str]] = [row for part in report["report"] for row in part[key]]
    except (ValueError, KeyError, TypeError) as error:
        raise DataCorrupt(path=f"the report of {tool}", reason=str(error)) from error
    return rows


def _missing(group: str) -> NotFound:
    return NotFound(
        kind="volume group", name=group, hint="`vgs` lists those there are; [lvm] volume_group names the one to use"
    )
