"""An instance's disk moves from a file to a volume and back, and is deleted under the name it has then."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from cowshed.driver.steps import teardown
from cowshed.tools import lvm
from cowshed.units import MiB
from tests.lvm.conftest import GROUP, make_backend
from tests.unit.test_driver_disks import Host


@pytest.mark.parametrize("thin", [True, False])
def test_a_disk_moves_to_a_volume_and_back(tmp_path: Path, thin: bool) -> None:
    (tmp_path / "state").mkdir()
    host = Host(tmp_path / "state")
    host.rooms.backends["lvm"] = make_backend(host.rooms.state, thin=thin)  # type: ignore[index]
    who = host.web("qcow2")

    def volumes() -> list[str]:
        return [name for name in lvm.volumes(GROUP) if name.startswith(who.uuid)]

    assert host.driver.move_disk(who, "lvm")
    assert host.read(who) == host.content
    assert len(volumes()) == 1
    host.driver.resize_disk(who, 12 * MiB)
    host.content += bytes(4 * MiB)
    host.driver.take_disk_snapshot(who, "before", "root")
    host.driver.roll_back_disks(who, "before", "root")
    assert host.read(who) == host.content
    host.driver.remove_disk_snapshot(who, "before", "root")

    assert host.driver.move_disk(who, "raw")
    assert host.read(who) == host.content
    assert volumes() == []

    assert host.driver.move_disk(who, "lvm")
    assert len(volumes()) == 1
    teardown.delete_disks(host.rooms, who)
    assert volumes() == []
    _cleared()


def _cleared() -> None:
    """What was deleted is cleared behind our back."""
    deadline = time.monotonic() + 120
    while [name for name in lvm.volumes(GROUP) if name.startswith("cowshed-gone")]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
