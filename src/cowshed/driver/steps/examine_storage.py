"""The doctor's round of the disk backends: is each that is configured there, reachable, and not nearly full?"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from cowshed import config as configuration
from cowshed.config import user
from cowshed.contract.storage import Backend
from cowshed.errors import CowshedError, DataCorrupt, NotFound, PermissionDenied, ToolMissing
from cowshed.model.host import Finding

if TYPE_CHECKING:
    from cowshed.driver.rooms import Rooms

_FILES: Final = ("raw", "qcow2", "ploop")  # their place is the state directory, which has checks of its own
_LVM_TOOLS: Final = {
    "lvs": "lvm2",
    "lvcreate": "lvm2",
    "lvchange": "lvm2",
    "lvremove": "lvm2",
    "thin_check": "thin-provisioning-tools",
}
_VOLUME: Final = "cowshed-doctor"  # it is only asked about


def backends(rooms: Rooms) -> list[Finding]:
    from cowshed.host import doctor_storage as doctor

    findings = doctor.default(rooms.config.disks.backend, rooms.backends, configuration.BACKEND_KEYS)
    findings += doctor.orphaned(_orphaned(rooms), configuration.BACKEND_KEYS)
    for name, backend in rooms.backends.items():
        if name not in _FILES:
            findings += _one(rooms, name, backend)
    return findings


def reached(rooms: Rooms) -> list[Finding]:
    """What guests would not be able to open; libvirt must be there."""
    from cowshed.driver.steps import reachable
    from cowshed.host import doctor_storage as doctor

    return [
        finding for name in rooms.backends for finding in doctor.out_of_reach(name, reachable.obstacle(rooms, name))
    ]


def _orphaned(rooms: Rooms) -> dict[str, list[str]]:
    """Backend that is not here -> instances whose manifest names it."""
    from cowshed.disks import manifest

    found: defaultdict[str, list[str]] = defaultdict(list)
    if not os.access(rooms.instances, os.R_OK | os.X_OK):  # of which the state directory's check speaks
        return found
    for path in sorted(rooms.instances.glob(f"*/{manifest.FILE}")):
        try:
            named = {disk.backend for disk in manifest.load(path.parent).disks.values()}
        except DataCorrupt:
            continue  # of that the sweep speaks
        for backend in named - set(rooms.backends):
            found[backend].append(path.parent.name)
    return found


def _one(rooms: Rooms, name: str, backend: Backend) -> list[Finding]:
    checks: dict[str, Callable[[Rooms], Iterator[Finding]]] = {"rbd": _rbd, "lvm": _lvm}
    findings = list(checks[name](rooms)) if name in checks else []
    if any(finding.level == "error" for finding in findings):
        return findings  # what else fails, fails because of that
    return [*findings, *_room(name, backend, _place(rooms, name))]


def _place(rooms: Rooms, name: str) -> str:
    names = {"rbd": f"the pool {rooms.config.rbd.pool}", "lvm": f"the volume group {rooms.config.lvm.volume_group}"}
    return names.get(name, name)


def _room(name: str, backend: Backend, place: str) -> list[Finding]:
    from cowshed.host import doctor_storage as doctor

    try:
        capacity = backend.capacity()
    except CowshedError as error:
        return doctor.unreachable(name, str(error), error.hint or "")
    return doctor.room(name, place, total=capacity.total, free=capacity.free)


def _rbd(rooms: Rooms) -> Iterator[Finding]:
    """In the order in which one thing needs the other."""
    from cowshed.host import doctor_storage as doctor
    from cowshed.tools.rbd import Access, cluster
    from cowshed.tools.rbd.errors import bindings

    section = rooms.config.rbd
    try:
        bindings()
    except ToolMissing as error:
        yield from doctor.bindings(str(error))
        return
    yield from doctor.bindings("")
    yield from doctor.qemu_block_driver("rbd", "qemu-block-extra")
    if section.keyring and not os.access(section.keyring, os.R_OK):
        yield from doctor.keyring(section.keyring, section.user or "admin", error="it cannot be read")
        return
    found = cluster(
        Access(section.user, section.ceph_conf, section.keyring, section.connect_timeout, section.operation_timeout)
    )
    try:
        found.rados()
        if found.uses_cephx() and not section.secret_uuid:
            found.key()
    except NotFound as error:
        yield from doctor.keyring(section.keyring, found.user, error=str(error))
    except CowshedError as error:
        yield from doctor.unreachable("rbd", str(error), error.hint or "")
    else:
        yield from doctor.keyring(section.keyring, found.user)


def _lvm(rooms: Rooms) -> Iterator[Finding]:
    from cowshed.host import doctor_storage as doctor
    from cowshed.tools import lvm

    section = rooms.config.lvm
    tools = dict(_LVM_TOOLS)
    if not section.thin_pool:
        del tools["thin_check"]
    if missing := doctor.programs("lvm", tools):
        yield from missing
        return
    yield from _sudo(section.volume_group)
    try:
        lvm.group(section.volume_group)
        if section.thin_pool:
            pool = f"{section.volume_group}/{section.thin_pool}"
            data, metadata = lvm.pool_usage(section.volume_group, section.thin_pool)
            yield from doctor.thin_pool(pool, data=data, metadata=metadata)
    except PermissionDenied as error:
        yield from doctor.unreachable("lvm", str(error), error.hint or "")
    except NotFound as error:
        if error.kind == "thin pool":
            yield from doctor.no_thin_pool(section.thin_pool, str(error))
        else:
            yield from doctor.unreachable("lvm", str(error), error.hint or "")
    except CowshedError as error:
        yield from doctor.unreachable("lvm", str(error), error.hint or "")


def _sudo(group: str) -> list[Finding]:
    """Of an ordinary user; root needs none."""
    from cowshed.host import doctor_storage as doctor
    from cowshed.tools import privilege

    if os.geteuid() == 0:
        return []
    allowed: list[str] = []
    refused: list[str] = []
    for words in examples(group, user.name()):
        try:
            (allowed if privilege.permitted(words) else refused).append(words[0])
        except ToolMissing:
            refused.append(words[0])
    return doctor.sudo(allowed, refused, group=group)


def examples(group: str, user: str) -> list[list[str]]:
    """A call of each program that the backend needs as root."""
    report = ["--reportformat", "json", "--units", "b", "--nosuffix", "-o"]
    volume, mapped = f"{group}/{_VOLUME}", group.replace("-", "--")
    return [
        ["vgs", *report, "vg_name", group],
        ["lvs", "-a", *report, "lv_name", group],
        ["lvcreate", "-y", "-Wy", "-Zy", "-n", _VOLUME, "-L", "1b", group],
        ["lvextend", "-y", "-L", "1b", volume],
        ["lvrename", "-y", group, _VOLUME, _VOLUME],
        ["lvchange", "-y", "-ay", "-K", volume],
        ["lvremove", "-y", "-f", "-S", "tags=cowshed", volume],
        ["chown", "--", user, f"/dev/mapper/{mapped}-{_VOLUME.replace('-', '--')}"],
    ]
