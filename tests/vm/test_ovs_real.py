"""Open vSwitch, for real: a guest on a switch that runs in user space, in a network namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.vm import lab

STEPS = [
    "step: what cannot be is refused before anything is made",
    "step: its port says whose it is; it has its address from the other end of the switch",
    "step: another came and went while it ran",
    "step: it is on the switch again after a start",
    "step: what is left is taken away, again and again",
    "all done",
]


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_a_guest_on_open_vswitch(guest_dir: Path) -> None:
    inside = Path(__file__).with_name("ovs_inside.py")
    with lab.folder() as place:
        script = f'"$python" "{inside}" "$image" "$place"'
        said = lab.work(place, script, timeout=220, image=guest_dir / "tiny.qcow2", tools=("ovs-vsctl", "ovs-vswitchd"))
    assert [line for line in said.splitlines() if line in STEPS] == STEPS
