"""The doctor on disk backends: each check a function from facts to findings, as in ``doctor``."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Final

from cowshed.host import interpreter
from cowshed.host.doctor import ERROR, OK, WARNING
from cowshed.model.host import Finding
from cowshed.tools import run
from cowshed.units import GiB, format_size

_HALF: Final = 0.50  # shares of a pool that are used
_NEARLY: Final = 0.80
_ALMOST: Final = 0.95
_LITTLE: Final = 5 * GiB
_MODULES: Final = ("/usr/lib/*/qemu", "/usr/lib/qemu", "/usr/lib64/qemu")


def default(name: str, there: Collection[str], keys: Mapping[str, tuple[str, str]]) -> list[Finding]:
    """:param name: the configured default; :param keys: which option makes a backend be there"""
    if name in there:
        return [Finding(OK, "default backend", f"new disks live on {name}")]
    section, key = keys.get(name, ("disks", "backend"))
    sentence = f"[disks] backend is {name}, but there is no such backend here: no instance can be made"
    return [Finding(ERROR, "default backend", sentence, f"set [{section}] {key}, or another [disks] backend")]


def orphaned(disks: Mapping[str, Sequence[str]], keys: Mapping[str, tuple[str, str]]) -> list[Finding]:
    """:param disks: backend that is not configured (any more) -> instances with disks on it"""
    findings = []
    for backend, instances in disks.items():
        section, key = keys.get(backend, ("disks", "backend"))
        shown = ", ".join(instances[:3]) + (f" and {len(instances) - 3} more" if len(instances) > 3 else "")
        sentence = f"instances have disks there, but it is not configured: {shown}"
        findings.append(Finding(ERROR, f"backend {backend}", sentence, f"set [{section}] {key}"))
    return findings


def unreachable(name: str, error: str, hint: str) -> list[Finding]:
    """The place does not answer, or is not there."""
    return [Finding(ERROR, f"backend {name}", error, hint)]


def out_of_reach(name: str, reason: str) -> list[Finding]:
    """:param reason: why guests cannot open its disks; empty: they can"""
    return (
        [Finding(ERROR, f"libvirt and {name}", reason, "empty [rbd] namespace, or upgrade libvirt")] if reason else []
    )


def room(name: str, place: str, *, total: int, free: int) -> list[Finding]:
    """:param place: what people call it: ``pool vms``, ``volume group data``"""
    sentence = f"{format_size(free)} of {format_size(total)} are free in {place}"
    used = 1 - free / total if total else 1.0
    remedy = "remove disks or snapshots, let `cowshed image prune` remove unused bases, or make it larger"
    if used >= _ALMOST:
        return [Finding(ERROR, f"backend {name}", sentence, remedy)]
    if free < _LITTLE and used < _HALF:  # there is nothing to be removed that would help
        return [Finding(WARNING, f"backend {name}", f"{sentence}, which is small", "make it larger")]
    if used >= _NEARLY or free < _LITTLE:
        return [Finding(WARNING, f"backend {name}", sentence, remedy)]
    return [Finding(OK, f"backend {name}", sentence)]


def thin_pool(pool: str, *, data: float, metadata: float) -> list[Finding]:
    """:param data: and metadata: shares in use, 0 to 1. Guests' writes fail when either is full."""
    subject = f"thin pool {pool}"
    sentence = f"{data:.0%} of its data and {metadata:.0%} of its metadata are in use"
    worst = max(data, metadata)
    grow = "--poolmetadatasize +1G" if metadata >= data else "-L +10G"
    remedy = f"lvextend {grow} {pool}, or set thin_pool_autoextend_threshold in lvm.conf"
    if worst >= _ALMOST:
        return [Finding(ERROR, subject, f"{sentence}: guests' writes are about to fail", remedy)]
    if worst >= _NEARLY:
        return [Finding(WARNING, subject, sentence, remedy)]
    return [Finding(OK, subject, sentence)]


def no_thin_pool(pool: str, reason: str) -> list[Finding]:
    return [Finding(ERROR, f"thin pool {pool}", reason, f"lvcreate --type thin-pool -L SIZE -n {pool}")]


def programs(name: str, tools: Mapping[str, str]) -> list[Finding]:
    """:param tools: program -> package"""
    return [
        Finding(ERROR, f"backend {name}", f"{tool} is not installed", f"sudo apt install {package}")
        for tool, package in tools.items()
        if run.find(tool) is None
    ]


def sudo(allowed: Sequence[str], refused: Sequence[str], *, group: str) -> list[Finding]:
    """:param allowed: and refused: programs that sudo would, or would not, run for us without a password"""
    if refused:
        rules = f"{sys.executable} -m cowshed.tools.privilege $USER {group} | sudo tee /etc/sudoers.d/cowshed"
        sentence = f"sudo does not let us run {', '.join(refused)} on the volume group {group}"
        return [Finding(ERROR, "sudo rules", sentence, rules)]
    return (
        [Finding(OK, "sudo rules", f"{len(allowed)} programs may be run on the volume group {group}")]
        if allowed
        else []
    )


def keyring(path: str, user: str, *, error: str = "") -> list[Finding]:
    """:param error: why the key of ``user`` is not found; empty: it is"""
    subject = "Ceph key"
    if not error:
        return [Finding(OK, subject, f"the key of client.{user} is found")]
    if path and not Path(path).exists():
        return [Finding(ERROR, subject, f"the keyring {path} does not exist", "set [rbd] keyring")]
    if path and not os.access(path, os.R_OK):
        remedy = f"sudo setfacl -m u:$USER:r {path}, or set [rbd] keyring to one of your own"
        return [Finding(ERROR, subject, f"no permission to read the keyring {path}", remedy)]
    return [Finding(ERROR, subject, error, f"set [rbd] keyring to a file with the key of client.{user}")]


def bindings(error: str) -> list[Finding]:
    """:param error: why Ceph's Python modules cannot be loaded; empty: they can"""
    if error:
        return [Finding(ERROR, "Ceph binding", error, interpreter.remedy("python3-rados python3-rbd"))]
    return [Finding(OK, "Ceph binding", "the Python modules rados and rbd are installed")]


def qemu_block_driver(name: str, package: str, *, places: Sequence[str] = _MODULES) -> list[Finding]:
    """Can QEMU open disks of this protocol? On most distributions the driver is a module in a package of its own."""
    for pattern in places:
        folders = [folder for folder in Path("/").glob(pattern.lstrip("/")) if folder.is_dir()]
        if any((folder / f"block-{name}.so").exists() for folder in folders):
            return [Finding(OK, f"QEMU and {name}", "QEMU has the driver")]
    if _built_in(name, places):
        return [Finding(OK, f"QEMU and {name}", "QEMU has the driver")]
    sentence = f"QEMU has no driver for {name}: no guest starts from such a disk"
    return [Finding(ERROR, f"QEMU and {name}", sentence, f"sudo apt install {package}")]


def _built_in(name: str, places: Sequence[str]) -> bool:
    """A QEMU without modules lists what it has; one with modules lists what there could be."""
    if run.find("qemu-img") is None or any(list(Path("/").glob(f"{place.lstrip('/')}/block-*.so")) for place in places):
        return False
    done = run.run(["qemu-img", "--help"], timeout=20, check=False)
    listed = done.stdout.decode(errors="replace").partition("Supported formats:")[2]
    return name in listed.split()
