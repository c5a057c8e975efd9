"""What to do next about a running migration: pure, from what libvirt says of it and what is configured."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

STEPS: Final = 10  # steps from the first allowed downtime to the last
LEAST_DOWNTIME: Final = 100.0  # milliseconds; QEMU needs about as much for its devices alone


class Action(StrEnum):
    """``CARRY_ON``: nothing; ``DOWNTIME``: allow more of it; the others end the migration one way or the other."""

    CARRY_ON = "carry on"
    DOWNTIME = "downtime"
    POST_COPY = "post-copy"
    PAUSE = "pause"
    ABORT = "abort"


@dataclass(frozen=True, slots=True)
class Policy:
    """``downtime`` in milliseconds at most; ``completion`` in seconds per GiB of memory and disks to be moved;
    ``stall`` in seconds without progress. ``at_timeout`` is what happens when either is over."""

    downtime: float = 500.0
    completion: float = 800.0
    stall: float = 150.0
    at_timeout: Action = Action.ABORT
    post_copy: bool = False


@dataclass(frozen=True, slots=True)
class Sample:
    """What libvirt's job statistics say: bytes and seconds. ``iteration``: how often memory was gone through."""

    elapsed: float
    remaining: int
    total: int
    iteration: int = 0


@dataclass
class Monitor:
    """Follows one migration. ``forced``: somebody asked for its end (live_migration_force_complete).

    ``late``: the seconds after which it was given up because it took too long; 0: it was not
    """

    policy: Policy
    forced: bool = False
    late: float = field(default=0.0, init=False)
    _round: int = field(default=0, init=False)
    _least: int | None = field(default=None, init=False)
    _progress_at: float = field(default=0.0, init=False)
    _step: int = field(default=0, init=False)
    _switched: bool = field(default=False, init=False)

    def next(self, sample: Sample) -> Action:
        """What to do now; called again with each sample."""
        self._note(sample)
        if self._switched:
            return Action.CARRY_ON
        if self.forced:
            return self._switch(Action.POST_COPY if self.policy.post_copy else Action.PAUSE)
        if self._over(sample):
            return self._timed_out(sample.elapsed)
        if sample.iteration > self._step and self._step < STEPS:
            self._step += 1
            return Action.DOWNTIME
        return Action.CARRY_ON

    def again(self) -> None:
        """The last action could not be done yet: the next sample asks for it once more."""
        self._switched = False

    @property
    def downtime(self) -> int:
        """Milliseconds the guest may stand still, after as many steps as there were: it grows geometrically."""
        most = max(self.policy.downtime, LEAST_DOWNTIME)
        factor: float = (most / LEAST_DOWNTIME) ** (self._step / STEPS)
        return round(LEAST_DOWNTIME * factor)

    def _note(self, sample: Sample) -> None:
        """What is dirtied meanwhile counts from the next round on: each begins with more than the last has ended with."""
        if self._least is None or sample.remaining < self._least or sample.iteration > self._round:
            self._round = sample.iteration
            self._least = sample.remaining
            self._progress_at = sample.elapsed

    def _over(self, sample: Sample) -> bool:
        size = max(sample.total / 2**30, 2.0)  # small guests get the time of a larger one
        completion = self.policy.completion * size
        stalled = sample.elapsed - self._progress_at
        return bool(completion and sample.elapsed > completion) or bool(
            self.policy.stall and stalled > self.policy.stall
        )

    def _timed_out(self, elapsed: float) -> Action:
        wanted = self.policy.at_timeout
        if wanted == Action.ABORT:
            self.late = elapsed
        if wanted == Action.POST_COPY and not self.policy.post_copy:
            wanted = Action.PAUSE
        return self._switch(wanted)

    def _switch(self, action: Action) -> Action:
        self._switched = True
        return action
