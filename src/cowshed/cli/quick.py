"""``cowshed ls`` in the usual case, answered before the rest of the command is loaded.

With 100 instances that is 50 ms instead of 130. It reads the records and asks libvirt for the
states, nothing else; whenever anything is out of the ordinary (options, configuration, another
libvirt, an unfinished instance, one that is rescued or resized) it says so and the usual verb does the work. A test compares the
two.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

_STATES = {-1: "suspended", 1: "running", 2: "running", 3: "paused", 6: "crashed", 7: "suspended"}  # look.SAVED is -1
_OURS = {"COWSHED_HOST_STATE", "COWSHED_DEBUG"}


def ls() -> bool:
    """Print the table of instances; False: it must be done the usual way."""
    if not _ordinary():
        return False
    rows = _records(os.path.join(_state(), "cowshed.db"))
    if rows is None:
        return False
    if rows:
        from cowshed.hypervisor import look

        states = look.states()
        if states is None or any(row["state"] in ("building", "deleting") for row in rows) or _waiting(rows):
            return False
        for row in rows:
            row["state"] = _seen(states.get(row["uuid"]))
    _print(rows)
    return True


def _ordinary() -> bool:
    """Nothing is configured (a link that leads nowhere is refused by the usual verb), and the session's libvirt is the one to ask."""
    environ = os.environ
    if not (os.path.isabs(_state()) and os.path.isabs(os.path.expanduser("~"))):
        return False
    if any(name.startswith("COWSHED_") and name not in _OURS for name in environ) or environ.get("LIBVIRT_DEFAULT_URI"):
        return False
    if os.geteuid() == 0:
        system = any(os.path.exists(f"/run/libvirt/{name}") for name in ("libvirt-sock", "virtqemud-sock"))
        return not system and not os.path.lexists("/etc/cowshed")
    folder = environ.get("XDG_CONFIG_HOME") or os.path.join(os.path.expanduser("~"), ".config")
    return not os.path.lexists(os.path.join(folder, "cowshed"))


def _state() -> str:
    if chosen := os.environ.get("COWSHED_HOST_STATE"):
        return chosen
    if os.geteuid() == 0:
        return "/var/lib/cowshed"
    return os.path.join(
        os.environ.get("XDG_DATA_HOME") or os.path.join(os.path.expanduser("~"), ".local/share"), "cowshed"
    )


def _records(path: str) -> list[dict[str, Any]] | None:
    try:
        os.stat(path)
    except FileNotFoundError:
        return []
    except OSError:
        return None
    import json
    import sqlite3

    try:
        with sqlite3.connect(path, timeout=5) as database:
            if database.execute("pragma user_version").fetchone()[0] != 1:
                return None
            query = "select name, uuid, state, created, record from instances where state != 'soft-deleted' order by created, name"
            return [_row(a, b, c, d, json.loads(e)) for a, b, c, d, e in database.execute(query)]
    except (sqlite3.Error, ValueError, KeyError):
        return None


def _waiting(rows: list[dict[str, Any]]) -> bool:
    """Is one rescued, or does it wait for a confirmation? The driver's notes, steps/placing.py and steps/transit.py, say so."""
    state = _state()
    with suppress(FileNotFoundError):
        if any(name.endswith(".out.json") for name in os.listdir(os.path.join(state, "transit"))):
            return True
    return any(os.path.exists(os.path.join(state, "instances", row["uuid"], "rescue.json")) for row in rows)


def _row(name: str, uuid: str, state: str, created: float, data: dict[str, Any]) -> dict[str, Any]:
    instance = data["instance"]
    ports = [
        f"{one['host_address']}:{one['host_port']}->{one['guest_port']}/{one['protocol']}"
        for vif in data["vifs"]
        for one in vif["forwards"]
    ]
    return {
        "name": name,
        "uuid": uuid,
        "state": state,
        "image": data.get("image_name") or instance["image_ref"] or f"volume:{_root_volume(instance)}",
        "cpus": instance["flavor"]["vcpus"],
        "memory": instance["flavor"]["memory"],
        "ports": ", ".join(ports),
        "created": created,
    }


def _root_volume(instance: dict[str, Any]) -> str:
    return str(instance["system_metadata"].get("root_volume", ""))[:8]


def _seen(state: int | None) -> str:
    """What the hypervisor says wins over what was recorded (manager/states.py)."""
    return "error" if state is None else _STATES.get(state, "stopped")


def _print(rows: list[dict[str, Any]]) -> None:
    from cowshed.cli import output
    from cowshed.units import format_size

    output.emit(
        "table",
        "instances",
        rows,
        {
            "name": lambda row: row["name"],
            "state": lambda row: row["state"],
            "image": lambda row: row["image"],
            "cpus": lambda row: row["cpus"],
            "memory": lambda row: format_size(row["memory"]),
            "ports": lambda row: row["ports"],
            "age": lambda row: output.age(row["created"]),
        },
    )
