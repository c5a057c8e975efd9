"""librados' and librbd's errors in our words: one table, by error number."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from cowshed.errors import (
    Busy,
    CowshedError,
    DeadlineExceeded,
    DiskNotFound,
    InvalidRequest,
    NameTaken,
    NoSpace,
    NotFound,
    PermissionDenied,
    SnapshotNotFound,
    ToolFailed,
    ToolMissing,
    UnsupportedOperation,
)

# The other host's monitor or OSD calls what librados calls ESHUTDOWN "blocklisted".
SHUT_OUT: Final = (errno.ESHUTDOWN, errno.ENOTCONN)

PACKAGE: Final = "install the packages python3-rados and python3-rbd"


def bindings() -> tuple[Any, Any]:
    """The modules rados and rbd. :raises ToolMissing:"""
    try:
        import rados
        import rbd
    except ImportError as error:
        raise ToolMissing(tool="librbd for Python", hint=PACKAGE) from error
    return rados, rbd


def number_of(error: Exception) -> int:
    """The error number of one of the bindings' errors; 0 for one without."""
    return abs(int(getattr(error, "errno", 0) or 0))


def _missing(kind: str, name: str, seconds: float) -> CowshedError:
    if kind == "snapshot":
        return SnapshotNotFound(name=name)
    if kind == "image":
        return DiskNotFound(name=name)
    return NotFound(kind=kind, name=name)


_Make = Callable[[str, str, str, float], CowshedError]

# (action, kind, name, seconds of the deadline) -> error
_TABLE: Final[dict[int, _Make]] = {
    errno.ENOENT: lambda action, kind, name, seconds: _missing(kind, name, seconds),
    errno.EEXIST: lambda action, kind, name, seconds: NameTaken(kind=kind, name=name),
    errno.EBUSY: lambda action, kind, name, seconds: Busy(
        what=f"{kind} {name}",
        holder="another client of the cluster",
        hint="stop the guest that uses it, then try again",
    ),
    errno.ENOTEMPTY: lambda action, kind, name, seconds: Busy(
        what=f"{kind} {name}", holder="its snapshots", hint="remove them first"
    ),
    errno.EPERM: lambda action, kind, name, seconds: PermissionDenied(action=action, path=f"{kind} {name}"),
    errno.EACCES: lambda action, kind, name, seconds: PermissionDenied(action=action, path=f"{kind} {name}"),
    errno.EROFS: lambda action, kind, name, seconds: PermissionDenied(action=action, path=f"{kind} {name}"),
    errno.ENOSPC: lambda action, kind, name, seconds: _full(name),
    errno.EDQUOT: lambda action, kind, name, seconds: _full(name),
    errno.ETIMEDOUT: lambda action, kind, name, seconds: DeadlineExceeded(
        what=f"an answer of the Ceph cluster (to {action} {kind} {name})",
        seconds=seconds,
        hint="ceph status tells which monitors and OSDs are down",
    ),
    errno.EOPNOTSUPP: lambda action, kind, name, seconds: UnsupportedOperation(
        subject=f"{kind} {name}", operation=action, reason="the cluster or the image has not this feature"
    ),
    errno.ENOSYS: lambda action, kind, name, seconds: UnsupportedOperation(
        subject=f"{kind} {name}", operation=action, reason="the cluster or the image has not this feature"
    ),
    errno.EDOM: lambda action, kind, name, seconds: InvalidRequest(reason=f"{kind} {name}: a value is out of range"),
}


def _full(name: str) -> NoSpace:
    return NoSpace(place=f"the Ceph pool of {name}", needed="more", free="nothing", hint="raise the quota or add OSDs")


def translated(error: Exception, action: str, kind: str, name: str, seconds: float) -> CowshedError:
    """``error`` of the bindings as ours."""
    number = number_of(error)
    if number in SHUT_OUT:
        return ToolFailed(
            command=f"librbd: {action} {kind} {name}",
            status=number,
            output="the cluster has shut this client out",
            hint="try again: the next call makes a new connection",
        )
    if make := _TABLE.get(number):
        return make(action, kind, name, seconds)
    output = f"{error} ({os.strerror(number)})" if number else str(error)
    return ToolFailed(command=f"librbd: {action} {kind} {name}", status=number, output=output)


@contextmanager
def errors_of(
    action: str,
    name: str,
    *,
    kind: str = "image",
    seconds: float = 0.0,
    shut_out: Callable[[], object] | None = None,
) -> Iterator[None]:
    """Errors of the bindings inside the block become ours.

    :param shut_out: called when the connection is of no more use
    """
    rados, rbd = bindings()
    try:
        yield
    except (rados.Error, rbd.Error) as error:
        if number_of(error) in SHUT_OUT and shut_out:
            shut_out()
        raise translated(error, action, kind, name, seconds) from error
