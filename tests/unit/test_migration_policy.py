"""What is done about a migration that does not end by itself."""

from __future__ import annotations

import pytest

from cowshed.migration.policy import LEAST_DOWNTIME, STEPS, Action, Monitor, Policy, Sample
from cowshed.units import GiB


def sample(elapsed: float, remaining: int, *, iteration: int = 0) -> Sample:
    return Sample(elapsed, remaining, 4 * GiB, iteration)


def test_the_allowed_downtime_grows_with_each_round_up_to_what_is_configured() -> None:
    monitor = Monitor(Policy(downtime=800))
    assert monitor.downtime == LEAST_DOWNTIME
    allowed = []
    for number in range(1, STEPS + 5):
        action = monitor.next(sample(number, 4 * GiB - number, iteration=number))
        allowed.append(monitor.downtime)
        assert action == (Action.DOWNTIME if number <= STEPS else Action.CARRY_ON)
    assert allowed == sorted(allowed)
    assert allowed[-1] == 800


def test_progress_keeps_it_going_and_none_ends_it() -> None:
    monitor = Monitor(Policy(stall=10, at_timeout=Action.ABORT))
    for second in range(30):
        assert monitor.next(sample(second, 4 * GiB - second)) == Action.CARRY_ON
    assert monitor.next(sample(39, 4 * GiB)) == Action.CARRY_ON
    assert monitor.next(sample(40, 4 * GiB)) == Action.ABORT
    assert monitor.next(sample(41, 4 * GiB)) == Action.CARRY_ON  # it is told once


def test_a_round_that_begins_with_more_than_the_last_has_ended_with_gets_further() -> None:
    """As QEMU counts: down to nearly nothing in each round, then what the guest has changed meanwhile."""
    monitor = Monitor(Policy(stall=10, completion=0))
    for number in range(1, 4):
        for second in range(30):
            told = monitor.next(sample(number * 30 + second, (30 - second) * GiB // number, iteration=number))
            assert told in (Action.CARRY_ON, Action.DOWNTIME)
    assert monitor.next(sample(130, GiB // 3, iteration=3)) == Action.ABORT


def test_the_time_for_all_of_it_grows_with_its_size() -> None:
    monitor = Monitor(Policy(completion=10, stall=0))
    assert monitor.next(sample(40, 100)) == Action.CARRY_ON
    assert monitor.next(sample(41, 50)) == Action.ABORT


@pytest.mark.parametrize(
    ("post_copy", "at_timeout", "expected"),
    [
        (True, Action.POST_COPY, Action.POST_COPY),
        (False, Action.POST_COPY, Action.PAUSE),
        (True, Action.PAUSE, Action.PAUSE),
    ],
)
def test_post_copy_only_where_it_is_allowed(post_copy: bool, at_timeout: Action, expected: Action) -> None:
    monitor = Monitor(Policy(stall=1, at_timeout=at_timeout, post_copy=post_copy))
    monitor.next(sample(0, 5))
    assert monitor.next(sample(2, 5)) == expected


@pytest.mark.parametrize(("post_copy", "expected"), [(True, Action.POST_COPY), (False, Action.PAUSE)])
def test_who_forces_it_waits_for_no_time(post_copy: bool, expected: Action) -> None:
    monitor = Monitor(Policy(post_copy=post_copy))
    assert monitor.next(sample(0, 5)) == Action.CARRY_ON
    monitor.forced = True
    assert monitor.next(sample(1, 5)) == expected


def test_what_could_not_be_done_yet_is_asked_for_once_more() -> None:
    monitor = Monitor(Policy(post_copy=True), forced=True)
    assert monitor.next(Sample(1, 10, 100)) == Action.POST_COPY
    assert monitor.next(Sample(2, 10, 100)) == Action.CARRY_ON
    monitor.again()
    assert monitor.next(Sample(3, 10, 100)) == Action.POST_COPY
