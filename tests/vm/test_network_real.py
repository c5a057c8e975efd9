"""A libvirt network and a bridge, for real: the system's daemon in a network namespace, nothing of the host touched."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm import lab

# The network is idle: running an instance on it starts it.
_WORK = r"""
cowshed() { "$python" -m cowshed.cli --connect qemu:///system "$@"; }
ip link add cowbr0 type bridge
ip link set cowbr0 up
! cowshed run "$image" --name lost --network labs 2>"$place/missing" || exit 3
! cowshed run "$image" --name lost --network bridge:cowbr1 2>"$place/no-bridge" || exit 3
virsh -q -c qemu:///system net-list --all >"$place/before"
cowshed run "$image" --name one --memory 160M --network lab --network bridge:cowbr0 \
    --wait 'log: 192.168.199.' --timeout 150s
virsh -q -c qemu:///system net-list --all >"$place/after"
ip -o link show master cowlab0 >"$place/ports"
ip -o link show master cowbr0 >"$place/bridge-ports"
cowshed rm --yes one
ip -o link show master cowlab0 >"$place/left"
ip -o link show master cowbr0 >>"$place/left"
cowshed ls -o json >"$place/instances"
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with lab.folder() as made:
        yield made


@pytest.mark.slow
def test_a_guest_on_a_network_and_on_a_bridge(place: Path, guest_dir: Path) -> None:
    lab.work(place, _WORK, timeout=220, image=guest_dir / "tiny.qcow2")
    assert "network labs does not exist" in (place / "missing").read_text()
    assert "lab" in (place / "missing").read_text().replace("labs", "")  # the hint names what there is
    assert "bridge cowbr1 does not exist" in (place / "no-bridge").read_text()
    assert "cowbr0" in (place / "no-bridge").read_text()  # the hint
    assert "inactive" in (place / "before").read_text()
    assert " active" in (place / "after").read_text()
    for ports in ("ports", "bridge-ports"):
        assert "vnet" in (place / ports).read_text(), "the guest's tap device is a port of the bridge"
    assert not (place / "left").read_text(), "no tap device is left"
    assert '"instances": []' in (place / "instances").read_text()
