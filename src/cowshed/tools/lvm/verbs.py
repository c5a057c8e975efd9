"""What can be done to volumes. All sizes in bytes; LVM rounds them up to whole extents."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from cowshed import clock, log
from cowshed.errors import Busy, CowshedError, HostUnsuitable, NameTaken, NoSpace, NotFound, ToolFailed
from cowshed.tools import block, privilege
from cowshed.tools.lvm import names, report
from cowshed.tools.lvm.report import OURS

_log = log.logger(__name__)

_TRIES: Final = 5
_PAUSE: Final = 0.2  # seconds
_FULL: Final = 0.9999  # LVM rounds the share
# Somebody (udev, a scanner) looks at a volume for a moment.
_PASSING: Final = ("in use", "is busy", "Device or resource busy", "used by another device", "try again")


def create_thick(group: str, name: str, size: int, tags: Sequence[str]) -> None:
    """Its bytes are whatever was there before. :raises NameTaken: :raises NoSpace: :raises NotFound: no such group"""
    words = ["lvcreate", "-y", "-Wy", "-Zy", *_new(name, tags), "-L", f"{size}b", group]
    _create(words, group, name, lambda: _check_group(group, size))
    _ready(group, name)


def create_thin(group: str, name: str, size: int, pool: str, tags: Sequence[str]) -> None:
    """It reads as zeros, and takes room in the pool as it is written to."""
    words = ["lvcreate", "-y", "-kn", *_new(name, tags), "-V", f"{size}b", "--thinpool", pool, group]
    _create(words, group, name, lambda: check_pool(group, pool, 0))
    _ready(group, name)


def create_sparse(group: str, name: str, size: int, room: int, tags: Sequence[str]) -> None:
    """Without a thin pool: ``room`` bytes for what is written (device-mapper's snapshot of nothing).

    When those are full, the whole volume is lost: thin pools are better. Grows never.
    """
    words = ["lvcreate", "-y", "--type", "snapshot", *_new(name, tags), "-V", f"{size}b", "-L", f"{room}b", group]
    _create(words, group, name, lambda: _check_group(group, room))
    _ready(group, name)


def thin_snapshot(group: str, name: str, origin: str, tags: Sequence[str], *, active: bool = True) -> None:
    """An instant clone of a thin volume, which it does not depend on afterwards.

    :raises NotFound: there is no ``origin``
    """
    words = ["lvcreate", "-y", "-kn" if active else "-ky", *_new(name, tags), "-s", f"{group}/{origin}"]
    _create(words, group, name, lambda: _check_origin(group, origin))
    if active:
        _ready(group, name)


def snapshot(group: str, name: str, origin: str, size: int, tags: Sequence[str]) -> None:
    """A classic snapshot: it keeps what ``origin`` overwrites, ``size`` bytes of that."""
    words = ["lvcreate", "-y", *_new(name, tags), "-s", "-L", f"{size}b", f"{group}/{origin}"]

    def check() -> None:
        _check_origin(group, origin)
        _check_group(group, size)

    _create(words, group, name, check)


def merge(group: str, snapshot: str) -> None:
    """The origin has the content of the snapshot again, which is gone then. The origin must not be in use."""
    _patiently(["lvconvert", "-y", "--merge", f"{group}/{snapshot}"], f"{group}/{snapshot}", timeout=3600)


def split(group: str, snapshot: str) -> None:
    """A classic snapshot's store becomes a volume of its own, under the same name."""
    _existing(["lvconvert", "-y", "--splitsnapshot", f"{group}/{snapshot}"], group, snapshot)
    _ready(group, snapshot)


def extend(group: str, name: str, size: int) -> None:
    """:raises NoSpace:"""
    try:
        _patiently(["lvextend", "-y", "-L", f"{size}b", f"{group}/{name}"], f"{group}/{name}")
    except ToolFailed as error:
        if "matches existing size" in error.output:
            return
        found = report.volume(group, name)
        if found and not found.pool:
            _check_group(group, size - found.size, error)
        raise


def set_size(group: str, name: str, size: int) -> None:
    """Grow or cut: what is behind ``size`` is lost. :raises NoSpace:"""
    found = report.volume(group, name)
    if found and found.size > size:
        _patiently(["lvreduce", "-y", "-f", "-L", f"{size}b", f"{group}/{name}"], f"{group}/{name}")
    elif found is None or found.size < size:
        extend(group, name, size)


def rename(group: str, old: str, new: str) -> None:
    """The atomic step. :raises NameTaken: :raises NotFound:"""
    try:
        _patiently(["lvrename", "-y", group, old, new], f"{group}/{old}")
    except ToolFailed as error:
        there = report.volumes(group)
        if new in there:
            raise _taken(group, new) from error
        if old not in there:
            raise NotFound(kind="volume", name=f"{group}/{old}") from error
        raise


def activate(group: str, name: str) -> None:
    """Its node is there, and this user may open it. Active already is success. :raises NotFound:"""
    _existing(["lvchange", "-y", "-ay", "-K", f"{group}/{name}"], group, name)
    _ready(group, name)


def deactivate(group: str, name: str) -> None:
    """:raises Busy: somebody has it open :raises NotFound:"""
    _existing(["lvchange", "-y", "-an", "-K", f"{group}/{name}"], group, name)


def read_only(group: str, name: str) -> None:
    _existing(["lvchange", "-y", "-p", "r", f"{group}/{name}"], group, name)


def retag(group: str, name: str, *, add: Sequence[str] = (), remove: Sequence[str] = ()) -> None:
    """:raises NotFound:"""
    words = [word for tag in add for word in ("--addtag", tag)] + [word for tag in remove for word in ("--deltag", tag)]
    _existing(["lvchange", "-y", *words, f"{group}/{name}"], group, name)


def remove(group: str, name: str) -> None:
    """Remove the volume if it has our tag; already gone is success, and so is one without it, which stays.

    LVM itself looks at the tag, under its own lock: a volume that is not ours cannot be removed.

    :raises Busy: somebody has it open
    """
    try:
        _patiently(["lvremove", "-y", "-f", "-S", f"tags={OURS}", f"{group}/{name}"], f"{group}/{name}")
    except ToolFailed:
        if name in report.volumes(group):
            raise


def thin_pool(group: str, pool: str) -> report.Volume:
    """:raises NotFound: there is no such thin pool"""
    found = report.volume(group, pool)
    if found is None or found.kind != "thin-pool":
        raise NotFound(kind="thin pool", name=f"{group}/{pool}", hint="[lvm] thin_pool names it")
    return found


def check_pool(group: str, pool: str, needed: int) -> None:
    """Before ``needed`` bytes are written to new volumes of this thin pool.

    :raises NotFound: no such thin pool
    :raises NoSpace: so much does not fit in
    :raises HostUnsuitable: it hands out blocks with what was in them before
    """
    found = thin_pool(group, pool)
    if not found.zeroes:
        raise HostUnsuitable(
            reason=f"thin pool {group}/{pool} does not zero new blocks, so guests would read each other's data",
            hint=f"lvchange --zero y {group}/{pool}",
        )
    free = report.pool_free(found)
    if needed > free or found.used >= _FULL:
        raise NoSpace(
            place=f"thin pool {group}/{pool}",
            needed=needed or "more",
            free=free,
            hint="remove volumes, or extend the pool: lvextend -L +SIZE",
        )


# --- how a command is run -------------------------------------------------------------------------


def _new(name: str, tags: Sequence[str]) -> list[str]:
    return ["-n", name, *(word for tag in tags for word in ("--addtag", tag))]


def _ready(group: str, name: str) -> None:
    node = names.node(group, name)
    block.wait(node)
    block.grant(node)


def _create(words: list[str], group: str, name: str, check: Callable[[], None]) -> None:
    """What is in the way is looked for when it has failed: before, it would cost as much as the command itself."""
    try:
        _patiently(words, f"{group}/{name}")
    except ToolFailed as error:
        if "already exists" in error.output and name in report.volumes(group):
            raise _taken(group, name) from error
        _explained(check, error)
        raise


def _explained(check: Callable[[], None], error: ToolFailed) -> None:
    try:
        check()
    except CowshedError as reason:
        raise reason from error


def _existing(words: list[str], group: str, name: str) -> None:
    try:
        _patiently(words, f"{group}/{name}")
    except ToolFailed as error:
        if name not in report.volumes(group):
            raise NotFound(kind="volume", name=f"{group}/{name}") from error
        raise


def _patiently(words: list[str], volume: str, *, timeout: float = 120) -> None:
    """Again when LVM dies of a signal, or somebody looks at the volume in passing.

    :raises Busy: they still do
    """
    for attempt in range(_TRIES):
        try:
            privilege.run(words, timeout=timeout)
            return
        except ToolFailed as error:
            passing = any(sign in error.output for sign in _PASSING)
            if error.status >= 0 and not passing:
                raise
            if attempt == _TRIES - 1:
                if passing:
                    raise Busy(what=f"volume {volume}", holder="a process that has it open") from error
                raise
            _log.info("%s of %s: %s; trying again", words[0], volume, error.output)
            clock.current().sleep(_PAUSE)


def _taken(group: str, name: str) -> NameTaken:
    return NameTaken(
        kind="volume", name=f"{group}/{name}", hint="`lvs -o +tags` shows whose it is; it is left as it is"
    )


def _check_group(group: str, needed: int, error: ToolFailed | None = None) -> None:
    """:raises NoSpace: the group has not so much left"""
    facts = report.group(group)
    if needed > facts.free:
        raise NoSpace(
            place=f"volume group {group}", needed=needed, free=facts.free, hint="remove volumes or add a disk to it"
        ) from error


def _check_origin(group: str, origin: str) -> None:
    found = report.volume(group, origin)
    if found is None:
        raise NotFound(kind="volume", name=f"{group}/{origin}")
    if found.pool:
        check_pool(group, found.pool, 0)
