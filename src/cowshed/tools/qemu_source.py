"""qemu-img on what QEMU reaches by itself: NBD, iSCSI and RBD volumes as well as files and devices.

Every driver is named, down the whole chain, so nothing is probed. A password or key travels through
an unnamed file in memory that only the tool inherits: it is in no argument, no environment, on no disk.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Final

from cowshed.errors import (
    Busy,
    CowshedError,
    DeadlineExceeded,
    NotFound,
    OperatorError,
    PermissionDenied,
    ToolFailed,
    UnsupportedOperation,
)
from cowshed.model.disk import DiskSource, DiskType, NetworkHost
from cowshed.tools.qemu_img import DRIVER
from cowshed.tools.run import Result, run

PORTS: Final = {"nbd": 10809, "iscsi": 3260}
_ANSWER: Final = 20.0  # seconds for a server to answer

# What QEMU 7.2 says, and what it means.
_GONE: Final = (
    "No such file or directory",
    "export not present",
    "Requested export not available",
    "No such export",
    "LOGICAL_UNIT_NOT_SUPPORTED",
    "Target not found",
    "error reading header",
)
_DENIED: Final = ("Authentication fail", "Authorization fail", "Permission denied", "Operation not permitted")
_UNREACHED: Final = ("Connection refused", "No route to host", "Network is unreachable", "Connection timed out")
_SPEC: Final = re.compile(
    r"(qemu-img: )?(Could not open )?'?json:\{.*\}'?:? ?"
)  # our own description of the volume, repeated


def size(source: DiskSource, *, password: bytes | None = None) -> int:
    """Bytes a guest sees. Opens the volume, so what is returned is there and lets us in.

    :raises NotFound: :raises PermissionDenied: :raises UnsupportedOperation: QEMU's module is not installed
    :raises OperatorError: the server does not answer
    """
    with _secrets(password=password) as (words, ids, fds):
        spec = _json(_layered(replace(source, backing=None), ids))  # the top layer's header says the size
        found = _run(source, ["info", "--output=json", "--force-share", *words, spec], fds, timeout=_ANSWER)
    return int(json.loads(found.stdout)["virtual-size"])


def copy(
    source: DiskSource,
    target: DiskSource,
    *,
    password: bytes | None = None,
    target_password: bytes | None = None,
    timeout: float = 86400.0,
) -> None:
    """All bytes of ``source`` to ``target``, which is there and large enough; nobody may be using either.

    :raises Busy: a guest uses one of them
    """
    with _secrets(password=password, target_password=target_password) as (words, ids, fds):
        given = _json(_layered(source, ids))
        wanted = _json(_layered(target, {**ids, "password": ids.get("target_password", "")}))
        # -n: the target must be there; a missing device would otherwise become a regular file in /dev.
        _run(source, ["convert", "-n", *words, given, wanted], fds, timeout=timeout)


def _layered(source: DiskSource, ids: Mapping[str, str]) -> dict[str, Any]:
    """QEMU's description (qapi/block-core.json, BlockdevOptions) of a format on its storage."""
    layered: dict[str, Any] = {"driver": DRIVER[source.format], "file": storage(source, ids.get("password", ""))}
    if DRIVER[source.format] != "raw":
        layered["backing"] = _layered(source.backing, ids) if source.backing else None
    return layered


def storage(source: DiskSource, password_id: str = "") -> dict[str, Any]:
    """The protocol layer of ``source``. :param password_id: of QEMU's secret object"""
    if source.type == DiskType.FILE:
        return {"driver": "file", "filename": str(source.path)}
    if source.type == DiskType.BLOCK:
        return {"driver": "host_device", "filename": str(source.path)}
    if source.protocol == "nbd":
        return {"driver": "nbd", "export": source.name, "server": _server(source.hosts[0])}
    if source.protocol == "iscsi":
        return _iscsi(source, password_id)
    if source.protocol == "rbd":
        return _rbd(source, password_id)
    raise UnsupportedOperation(
        subject="qemu-img", operation=f"open {source.protocol} volumes", reason="it is not taught"
    )


def _server(host: NetworkHost) -> dict[str, str]:
    if host.socket:
        return {"type": "unix", "path": str(host.socket)}
    return {"type": "inet", "host": host.name.strip("[]"), "port": str(host.port or PORTS["nbd"])}


def _iscsi(source: DiskSource, password_id: str) -> dict[str, Any]:
    target, _, lun = source.name.rpartition("/")
    host = source.hosts[0]
    found = {
        "driver": "iscsi",
        "transport": "tcp",
        "portal": f"{host.name}:{host.port or PORTS['iscsi']}",
        "target": target,
        "lun": int(lun),
    }
    if source.initiator:
        found["initiator-name"] = source.initiator
    if source.auth_user:
        found |= {"user": source.auth_user, "password-secret": password_id}
    return found


def _rbd(source: DiskSource, password_id: str) -> dict[str, Any]:
    pool, *namespace, image = source.name.split("/")
    hosts = [{"host": one.name.strip("[]"), "port": str(one.port or 6789)} for one in source.hosts]
    found: dict[str, Any] = {"driver": "rbd", "pool": pool, "image": image, "server": hosts}
    if namespace:
        found["namespace"] = namespace[0]
    if source.auth_user:
        found |= {"user": source.auth_user, "key-secret": password_id, "auth-client-required": ["cephx"]}
    return found


def _json(spec: Mapping[str, Any]) -> str:
    return f"json:{json.dumps(spec)}"


@contextmanager
def _secrets(**contents: bytes | None) -> Iterator[tuple[list[str], dict[str, str], list[int]]]:
    """The ``--object`` words for each content, their ids, and the descriptors that the tool must inherit."""
    words, ids, fds = [], {}, []
    with ExitStack() as stack:
        for name, content in contents.items():
            if content is None:
                continue
            fd = os.memfd_create(f"cowshed-{name}", os.MFD_CLOEXEC)
            stack.callback(os.close, fd)
            os.write(fd, content)
            ids[name] = name.replace("_", "-")
            words += ["--object", f"secret,id={ids[name]},file=/proc/self/fd/{fd}"]
            fds.append(fd)
        yield words, ids, fds


def _run(source: DiskSource, words: list[str], fds: list[int], *, timeout: float) -> Result:
    try:
        return run(["qemu-img", *words], timeout=timeout, pass_fds=fds)
    except ToolFailed as error:
        raise _meaning(source, error.output) from error
    except DeadlineExceeded as error:
        raise OperatorError(reason=f"{named(source)} does not answer within {timeout:g} s") from error


def named(source: DiskSource) -> str:
    """For people: where the volume is."""
    if source.path:
        return str(source.path)
    host = source.hosts[0] if source.hosts else NetworkHost("its cluster")
    where = str(host.socket) if host.socket else f"{host.name}:{host.port}" if host.port else host.name
    return f"{source.protocol}:{source.name} at {where}"


def _meaning(source: DiskSource, output: str) -> CowshedError:
    where, output = named(source), _SPEC.sub("", output)
    if "Unknown driver" in output or "Unknown protocol" in output:
        return UnsupportedOperation(
            subject="QEMU",
            operation=f"open {source.protocol} volumes",
            reason="its module is not installed",
            hint="install qemu-block-extra",
        )
    if any(words in output for words in _DENIED):
        login = "see that user and password are those of the target (--user, --password-file)"
        return PermissionDenied(action="open", path=where, hint=login if source.protocol == "iscsi" else None)
    if any(words in output for words in _GONE):
        return NotFound(kind="volume", name=where, hint=output)
    if "lock" in output and "Failed to get" in output:
        return Busy(what=where, holder="a guest or a tool")
    hint = "see that its server runs and lets this host in" if any(words in output for words in _UNREACHED) else None
    return OperatorError(reason=f"{where} cannot be opened: {output}", hint=hint)
