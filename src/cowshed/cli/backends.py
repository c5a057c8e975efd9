"""cowshed backends"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import click

from cowshed.cli import output
from cowshed.cli.context import Session, Verb, verb
from cowshed.errors import CowshedError

if TYPE_CHECKING:
    from cowshed.contract.storage import Backend

KINDS = ("qcow2", "raw", "ploop", "lvm", "rbd")


@click.command(cls=Verb)
@verb
def backends(session: Session) -> None:
    """Say what each disk backend can do here, and how much room it has.

    \b
    bases:    where the images lie that its disks stand on: in the cache of this host, or in the backend itself
    instant:  a new disk costs the same whatever the size of its image
    online:   disks grow under a running guest
    """
    there = session.host.backends()
    names = [*KINDS, *(name for name in there if name not in KINDS)]
    items = [_described(there[name]) if name in there else _missing(name) for name in names]
    session.emit("backends", items, COLUMNS)


def _described(backend: Backend) -> dict[str, Any]:
    """A place that does not answer is said to be so, and hides no other."""
    item: dict[str, Any] = {"configured": True, "total": None, "free": None, "problem": ""}
    try:
        item.update(dataclasses.asdict(backend.traits))
        room = backend.capacity()
        item.update(total=room.total, free=room.free)
    except CowshedError as error:
        item["problem"] = str(error)
    return {"name": backend.name, **item}


def _missing(name: str) -> dict[str, Any]:
    from cowshed.config import BACKEND_KEYS

    section, key = BACKEND_KEYS.get(name, ("", ""))
    return {"name": name, "configured": False, "problem": f"[{section}] {key} is not set" if key else "it is not here"}


def _flag(key: str) -> Any:
    return lambda row: row.get(key)


def _snapshots(row: output.Row) -> Any:
    if row.get("snapshots"):
        return "instant" if row.get("instant_snapshot") else "copied"
    return row.get("snapshots")


def _online(row: output.Row) -> Any:
    """A qcow2 file is grown by the QEMU that has it open, where the backend itself cannot."""
    return True if row.get("disk_format") == "qcow2" else row.get("grows_online")


def _bases(row: output.Row) -> str:
    if "keeps_bases" not in row:
        return ""
    return "its own" if row["keeps_bases"] else "cache"


def _free(row: output.Row) -> str:
    from cowshed.units import format_size

    if row["problem"]:
        return str(row["problem"]) if row["configured"] else f"not configured: {row['problem']}"
    return format_size(row["free"])


COLUMNS: output.Columns = {
    "backend": lambda row: row["name"],
    "format": lambda row: row.get("disk_format"),
    "bases": _bases,
    "instant": _flag("instant_clone"),
    "snapshots": _snapshots,
    "encrypts": _flag("encrypts"),
    "online": _online,
    "shared": _flag("shared"),
    "free": _free,
}
