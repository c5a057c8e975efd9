"""Sizes and durations as people write them."""

from __future__ import annotations

import threading

import pytest

from cowshed import clock, units
from cowshed.errors import DeadlineExceeded, InvalidRequest


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("20G", 20 << 30),
        ("20GiB", 20 << 30),
        ("20GB", 20 << 30),
        ("512m", 512 << 20),
        ("1.5G", 3 << 29),
        ("0", 0),
        ("7", 7),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert units.parse_size(text) == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "1X", "1 G G", "0x10", "1e3", "8192P", "99999999P"])
def test_nonsense_is_not_a_size(text: str) -> None:
    with pytest.raises(InvalidRequest):
        units.parse_size(text)


def test_numbers_that_no_disk_has_are_no_sizes() -> None:
    assert units.parse_size("8191P") == 8191 << 50
    for size in (-1, 1 << 63, 1.5e9, None):
        with pytest.raises(InvalidRequest):
            units.parse_size(size)  # type: ignore[arg-type]


@pytest.mark.parametrize(("size", "text"), [(0, "0 B"), (1023, "1023 B"), (1 << 20, "1 MiB"), (3 << 29, "1.5 GiB")])
def test_sizes_for_people(size: int, text: str) -> None:
    assert units.format_size(size) == text


@pytest.mark.parametrize(("text", "seconds"), [("90", 90), ("250ms", 0.25), ("1.5m", 90), ("2h", 7200), (5, 5)])
def test_durations(text: str | float, seconds: float) -> None:
    assert units.parse_duration(text) == seconds


@pytest.mark.parametrize(("seconds", "text"), [(4.2, "4 s"), (65, "1 min 5 s"), (3600, "1 h"), (90000, "1 d 1 h")])
def test_durations_for_people(seconds: float, text: str) -> None:
    assert units.format_duration(seconds) == text


class HandClock(clock.Clock):
    now = 0.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def wait(self, condition: threading.Condition, seconds: float | None) -> None:
        self.now += seconds or 0


def test_deadline_names_what_did_not_happen() -> None:
    with clock.using(HandClock()), pytest.raises(DeadlineExceeded, match=r"web running did not happen within 5 s"):
        clock.poll(lambda: False, clock.Deadline(5, "web running"))


def test_poll_returns_as_soon_as_it_holds() -> None:
    with clock.using(HandClock()) as hand:
        clock.poll(lambda: hand.monotonic() > 1, clock.Deadline(5, "it"))
        assert 1 < hand.monotonic() < 1.1
