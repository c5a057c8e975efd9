"""Every error cowshed raises on purpose, grouped by what the caller can do about it.

    CowshedError
    ├── RequestError            change the request and call again
    │   ├── InvalidRequest        a value is wrong or contradicts another
    │   ├── ConfigError           the configuration cannot be used
    │   ├── ImageRejected         the image is unsafe, broken or not what it claims to be
    │   ├── DigestMismatch        the bytes are not the ones that were asked for
    │   ├── DiskTooSmall          the disk is smaller than what must fit in
    │   ├── NotFound              Instance-, Image-, Disk-, Snapshot-, NetworkNotFound
    │   ├── Conflict              NameTaken, InvalidState, PortInUse
    │   └── UnsupportedOperation  this backend or host cannot do it (a NotImplementedError)
    ├── WaitError               wait, then call again
    │   ├── DeadlineExceeded      it did not happen in time; it may still happen
    │   ├── Busy                  somebody holds the lock
    │   └── Interrupted           the user said stop
    ├── HostError               free something, or choose another host
    │   ├── NoSpace
    │   └── HostUnsuitable
    ├── OperatorError           somebody who looks after the host must act
    │   ├── PermissionDenied
    │   ├── ToolMissing, ToolFailed
    │   ├── HypervisorUnavailable, HypervisorError
    │   ├── NetworkNotConnected
    │   ├── FetchFailed, ImageServiceFailed
    │   └── DataCorrupt
    └── InternalError           a bug in cowshed

Each class has a sentence with named fields (``template``), a stable machine ``code``, the exit
code of the command (``exit_code``), and may have a ``hint`` that says what to do. The fields are
attributes of the exception, so callers match on values and not on text.
"""

from __future__ import annotations

from string import Formatter
from typing import Any, ClassVar


class CowshedError(Exception):
    """Base of all errors. ``str(error)`` is one clear sentence without a trailing full stop."""

    template: ClassVar[str] = "{reason}"
    code: ClassVar[str] = "error"
    exit_code: ClassVar[int] = 1

    def __init__(self, *, hint: str | None = None, **fields: Any) -> None:
        names = {name for _, name, _, _ in Formatter().parse(self.template) if name}
        missing = names - fields.keys()
        if missing:
            raise TypeError(f"{type(self).__name__} needs {', '.join(sorted(missing))}")
        self.fields = fields
        self.hint = hint
        super().__init__(self.template.format(**{name: _shown(name, value) for name, value in fields.items()}))

    def __getattr__(self, name: str) -> Any:
        fields = self.__dict__.get("fields", {})
        if name in fields:
            return fields[name]
        raise AttributeError(f"{type(self).__name__!r} has no attribute {name!r}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.fields, self.hint)


_SIZES = ("size", "needed", "free")  # fields in bytes, shown in words


def _shown(name: str, value: Any) -> Any:
    if name not in _SIZES or not isinstance(value, int):
        return value
    from cowshed.units import format_size

    return format_size(value)


def _rebuild(kind: type[CowshedError], fields: dict[str, Any], hint: str | None) -> CowshedError:
    return kind(hint=hint, **fields)


# --- change the request -----------------------------------------------------------------------


class RequestError(CowshedError):
    code = "request"


class InvalidRequest(RequestError, ValueError):
    code = "invalid"
    exit_code = 2


class ConfigError(RequestError):
    template = "{source}: {reason}"
    code = "config"
    exit_code = 2


class ImageRejected(RequestError):
    template = "image {image} is refused: {reason}"
    code = "image-rejected"


class DigestMismatch(RequestError):
    template = "{subject} has the wrong {algorithm} digest: expected {expected}, got {actual}"
    code = "digest-mismatch"


class DiskTooSmall(RequestError):
    template = "disk {disk} of {size} is smaller than the {needed} that must fit in"
    code = "disk-too-small"
    exit_code = 8


class NotFound(RequestError, LookupError):
    template = "{kind} {name} does not exist"
    code = "not-found"
    exit_code = 3


class InstanceNotFound(NotFound):
    template = "instance {name} does not exist"
    code = "instance-not-found"


class ImageNotFound(NotFound):
    template = "image {name} does not exist"
    code = "image-not-found"


class DiskNotFound(NotFound):
    template = "disk {name} does not exist"
    code = "disk-not-found"


class SnapshotNotFound(NotFound):
    template = "snapshot {name} does not exist"
    code = "snapshot-not-found"


class NetworkNotFound(NotFound):
    template = "network {name} does not exist"
    code = "network-not-found"


class Conflict(RequestError):
    code = "conflict"
    exit_code = 4


class NameTaken(Conflict):
    template = "{kind} {name} exists already"
    code = "name-taken"


class InvalidState(Conflict):
    template = "instance {name} is {state}; it cannot be {action}"
    code = "invalid-state"


class PortInUse(Conflict):
    template = "port {port} on {address} is in use"
    code = "port-in-use"


class UnsupportedOperation(RequestError, NotImplementedError):
    """Raised before any side effect, so that a caller may fall back (a NotImplementedError)."""

    template = "{subject} cannot {operation}: {reason}"
    code = "unsupported"
    exit_code = 6


# --- wait -------------------------------------------------------------------------------------


class WaitError(CowshedError):
    code = "wait"
    exit_code = 7


class DeadlineExceeded(WaitError, TimeoutError):
    template = "{what} did not happen within {seconds:g} s"
    code = "timeout"


class Busy(WaitError):
    template = "{what} is locked by {holder}"
    code = "busy"
    exit_code = 4


class Interrupted(WaitError):
    template = "interrupted while {what}"
    code = "interrupted"
    exit_code = 130


# --- free something or go elsewhere -----------------------------------------------------------


class HostError(CowshedError):
    code = "host"
    exit_code = 8


class NoSpace(HostError):
    template = "no space left in {place}: {needed} is needed, {free} is free"
    code = "no-space"


class HostUnsuitable(HostError):
    """``host``: which one; said is nothing of "this host" to who asked another."""

    template = "{host} cannot run the instance: {reason}"
    code = "host-unsuitable"

    def __init__(self, *, hint: str | None = None, host: str = "this host", **fields: Any) -> None:
        super().__init__(hint=hint, host=host, **fields)


# --- somebody must look after the host --------------------------------------------------------


class OperatorError(CowshedError):
    code = "operator"


class PermissionDenied(OperatorError):
    template = "no permission to {action} {path}"
    code = "permission-denied"
    exit_code = 5


class ToolMissing(OperatorError):
    template = "the program {tool} is not installed"
    code = "tool-missing"
    exit_code = 8


class ToolFailed(OperatorError):
    """``status`` is the exit status (negative: the signal that ended it); ``output`` its last words."""

    template = "{command} failed with status {status}: {output}"
    code = "tool-failed"


class HypervisorUnavailable(OperatorError):
    template = "libvirt at {uri} cannot be reached: {reason}"
    code = "hypervisor-unavailable"
    exit_code = 8


class HypervisorError(OperatorError):
    """``number`` is libvirt's error number (virErrorNumber)."""

    template = "libvirt refused to {action}: {reason}"
    code = "hypervisor-error"


class NetworkNotConnected(OperatorError):
    """Whoever connects an interface says that it cannot."""

    template = "the network of {name} was not connected: {reason}"
    code = "network-not-connected"


class FetchFailed(OperatorError):
    template = "{url} could not be fetched: {reason}"
    code = "fetch-failed"


class ImageServiceFailed(OperatorError):
    """It cannot be reached, or answers what makes no sense."""

    template = "the image service at {url} could not {action}: {reason}"
    code = "image-service"
    exit_code = 8


class DataCorrupt(OperatorError):
    template = "{path} is damaged: {reason}"
    code = "data-corrupt"


# --- a bug ------------------------------------------------------------------------------------


class InternalError(CowshedError):
    template = "internal error: {reason}"
    code = "internal"
