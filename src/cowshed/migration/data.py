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

from collections.abc import Mapping
from typing import Any, Final

from cowshed.errors import InvalidRequest
from cowshed.migration import shape

VERSION: Final = 1
WHAT: Final = "the migrate data"  # in errors

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
    "late": float,
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
    shape.facts(data, _FACTS, WHAT)
    return data if isinstance(data, dict) else dict(data)
