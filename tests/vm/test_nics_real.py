"""Interfaces of a real guest: plugged while it runs, filtered by security groups, taken away."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm import lab

STEPS = [
    "step: attached while it runs",
    "step: packets pass or are dropped as the group says",
    "step: new rules at once, and the connection goes on",
    "step: counters, link and groups",
    "step: macvtap, tap and a libvirt network came and went",
    "step: outlived restarts",
    "all done",
]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_interfaces_of_a_guest_come_are_filtered_and_go(guest_dir: Path) -> None:
    inside = Path(__file__).with_name("nics_inside.py")
    with lab.folder() as place:
        script = f'"$python" "{inside}" "$image"'
        said = lab.work(place, script, timeout=280, image=guest_dir / "tiny.qcow2", tools=("nft",))
    assert said.splitlines()[-len(STEPS) :] == STEPS
