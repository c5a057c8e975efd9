"""Times side by side: ours and the peer's in turn, so that the machine's noise meets both."""

from __future__ import annotations

import os
import statistics
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(slots=True)
class Result:
    """One line of the table. Seconds; ``target`` is the largest ratio we want."""

    work: str
    against: str
    target: float
    ours: list[float] = field(default_factory=list)
    peer: list[float] = field(default_factory=list)
    cpu_ours: float = 0.0
    cpu_peer: float = 0.0
    notes: list[str] = field(default_factory=list)
    missing: str = ""

    @property
    def ratio(self) -> float:
        return statistics.median(self.ours) / statistics.median(self.peer)

    @property
    def cpu_ratio(self) -> float | None:
        return self.cpu_ours / self.cpu_peer if self.cpu_peer else None


def cpu() -> float:
    """Seconds that this process and those it has waited for have used."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def alternate(result: Result, ours: Callable[[int], object], peer: Callable[[int], object], rounds: int) -> Result:
    """Run both ``rounds`` times, one after the other, each given the number of the round."""
    for number in range(rounds):
        for work, times, name in ((ours, result.ours, "cpu_ours"), (peer, result.peer, "cpu_peer")):
            used, began = cpu(), time.perf_counter()
            work(number)
            times.append(time.perf_counter() - began)
            setattr(result, name, getattr(result, name) + cpu() - used)
    return result


def sh(*command: object, env: dict[str, str] | None = None) -> bytes:
    """Run a peer to its end; its output."""
    done = subprocess.run([str(word) for word in command], check=True, capture_output=True, env=env)
    return done.stdout


def written() -> int:
    """Bytes this process has caused to be written to storage so far."""
    for line in open("/proc/self/io"):  # noqa: SIM115 - closed by its end
        if line.startswith("write_bytes"):
            return int(line.split()[1])
    return 0


def sync_file(path: str) -> None:
    """Make a peer's file durable, as ours is."""
    for place in (path, os.path.dirname(path)):
        fd = os.open(place, os.O_RDONLY)
        os.fsync(fd)
        os.close(fd)
