"""Instance: the user's machine, as the contract passes it to every call."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum

from cowshed.model.flavor import Flavor


class PowerState(IntEnum):
    """The contract's codes (nova.compute.power_state)."""

    NOSTATE = 0
    RUNNING = 1
    PAUSED = 3
    SHUTDOWN = 4
    CRASHED = 6
    SUSPENDED = 7

    @property
    def word(self) -> str:
        """As the instance's own state is called."""
        return "stopped" if self is PowerState.SHUTDOWN else self.name.lower()


class InstanceState(StrEnum):
    """What the standalone manager records."""

    BUILDING = "building"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    STOPPED = "stopped"
    CRASHED = "crashed"
    ERROR = "error"
    DELETING = "deleting"
    SOFT_DELETED = "soft-deleted"


class Ending(StrEnum):
    """How a guest that was on went off."""

    SHUT_DOWN = "shut down"  # by itself, as it was asked
    CUT_OFF = "cut off"


class RebootType(StrEnum):
    SOFT = "SOFT"
    HARD = "HARD"


@dataclass(frozen=True, slots=True)
class Instance:
    """The fields a libvirt driver reads (contract.md section 5), with the contract's names.

    ``uuid`` is the identity; ``name`` is for people and names the domain. ``user_data`` is the
    plain text of cloud-init's user data (not base64). ``backend`` chooses where its disks live
    ("" = the host's default), ``disk_backends`` where single ones do (``swap``, ``disk.eph0``, ...).
    ``encrypt``: every disk that is its own gets a key of its own, whatever the host's default.
    ``metadata`` is the user's, ``system_metadata`` ours.
    """

    uuid: str
    name: str
    flavor: Flavor
    image_ref: str = ""
    kernel_id: str = ""
    ramdisk_id: str = ""
    host: str = ""
    project_id: str = ""
    user_id: str = ""
    display_name: str = ""
    hostname: str = ""
    os_type: str = "linux"
    key_name: str = ""
    key_data: str = ""
    user_data: str | None = None
    vendor_data: str | None = None
    admin_pass: str = ""
    config_drive: bool = False
    root_device_name: str = ""
    backend: str = ""
    disk_backends: Mapping[str, str] = field(default_factory=dict)
    encrypt: bool = False
    launched_at: float | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    system_metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class InstanceInfo:
    """What the hypervisor says of an instance. Memory in KiB (the contract's unit)."""

    state: PowerState
    internal_id: int | None = None
    max_mem_kb: int = 0
    mem_kb: int = 0
    num_cpu: int = 0
    cpu_time_ns: int = 0
