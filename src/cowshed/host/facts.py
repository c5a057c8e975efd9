"""Facts of this machine from /proc and the kernel; no process is started."""

from __future__ import annotations

import os
import platform
import socket
import struct
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cowshed.model.host import CpuStats
from cowshed.tools import filesystem

PROC: Final = Path("/proc")
UTMP: Final = Path("/run/utmp")
_UTMP_RECORD: Final = struct.Struct("<h382x")  # utmp(5): 384 bytes, the type first
_USER_PROCESS: Final = 7
_NANOSECONDS: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes; ``available`` is the kernel's estimate of what new programs can have."""

    total: int
    available: int

    @property
    def used(self) -> int:
        return self.total - self.available


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of a file system; ``free`` is what an ordinary user may write."""

    total: int
    free: int
    used: int


def uptime(*, proc: Path = PROC, utmp: Path = UTMP, now: time.struct_time | None = None) -> str:
    """The line that uptime(1) prints: time, time since boot, users, load."""
    seconds = int(float((proc / "uptime").read_text().split()[0]))
    loads = ", ".join((proc / "loadavg").read_text().split()[:3])
    users = _users(utmp)
    clock = time.strftime("%H:%M:%S", now or time.localtime())
    return f" {clock} up {_since_boot(seconds)}, {users:2d} user{'s' if users > 1 else ''},  load average: {loads}"


def _since_boot(seconds: int) -> str:
    days, rest = divmod(seconds, 86400)
    hours, minutes = rest // 3600, rest % 3600 // 60
    words = f"{days} day{'s' if days > 1 else ''}, " if days else ""
    return words + (f"{hours:2d}:{minutes:02d}" if hours else f"{minutes} min")


def _users(utmp: Path) -> int:
    try:
        data = utmp.read_bytes()
    except OSError:
        return 0
    size = _UTMP_RECORD.size
    kinds = (_UTMP_RECORD.unpack_from(data, offset)[0] for offset in range(0, len(data) - size + 1, size))
    return sum(kind == _USER_PROCESS for kind in kinds)


def cpu_stats(*, proc: Path = PROC) -> CpuStats:
    """Time of all CPUs since boot (proc(5), the line ``cpu``); frequency 0 where the kernel tells none."""
    words = (proc / "stat").read_text().split("\n", 1)[0].split()
    ticks = [int(word) for word in words[1:9]] + [0] * 8
    user, nice, system, idle, iowait, irq, softirq = ticks[:7]
    unit = _NANOSECONDS // os.sysconf("SC_CLK_TCK")
    return CpuStats(
        kernel=(system + irq + softirq) * unit,
        idle=idle * unit,
        user=(user + nice) * unit,
        iowait=iowait * unit,
        frequency=_megahertz(proc),
    )


def _megahertz(proc: Path) -> int:
    try:
        text = (proc / "cpuinfo").read_text()
    except OSError:
        return 0
    speeds = [float(line.partition(":")[2]) for line in text.splitlines() if line.startswith("cpu MHz")]
    return int(max(speeds, default=0))


def cpus() -> int:
    """Logical CPUs that are online."""
    return os.cpu_count() or 1


def _meminfo(proc: Path) -> dict[str, int]:
    values = {}
    for line in (proc / "meminfo").read_text().splitlines():
        name, _, rest = line.partition(":")
        values[name] = int(rest.split()[0]) * 1024
    return values


def memory(*, proc: Path = PROC) -> Memory:
    values = _meminfo(proc)
    return Memory(values["MemTotal"], values.get("MemAvailable", values["MemFree"]))


def most_memory(*, proc: Path = PROC) -> int | None:
    """Bytes that one process may ask for; None: the kernel promises as much as anybody wants.

    By default Linux refuses what is more than all memory and swap (vm.overcommit_memory).
    """
    if (proc / "sys/vm/overcommit_memory").read_text().strip() == "1":
        return None
    values = _meminfo(proc)
    return values["MemTotal"] + values.get("SwapTotal", 0)


def disk(path: Path) -> Space:
    """The file system that holds ``path``, or will hold it."""
    facts = os.statvfs(filesystem.nearest(path))
    unit = facts.f_frsize
    return Space(facts.f_blocks * unit, facts.f_bavail * unit, (facts.f_blocks - facts.f_bfree) * unit)


def hostname() -> str:
    return socket.gethostname()


def arch() -> str:
    return platform.machine()


def address() -> str:
    """The address other machines reach this one by: the source of the default route, IPv4 first.

    A UDP socket is connected for that; no packet is sent. Without a route: the loopback address.
    """
    # Documentation addresses (RFC 5737, RFC 3849): any address behind the default route will do.
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((target, 9))
                found: str = probe.getsockname()[0]
        except OSError:
            continue
        if found not in ("0.0.0.0", "::"):  # noqa: S104 - compared, not bound to
            return found
    return "127.0.0.1"
