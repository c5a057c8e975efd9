"""What a guest writes while it is moved is there when it has arrived."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance
from cowshed.units import KiB, MiB
from tests.vm.sides import Side, go, pair, prepared
from tests.vm.two_hosts import Host
from tests.volume_servers import until

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("migration")]

PAGE, BEGIN, END = 4 * KiB, 0x10000, 0x90000
_PHYSICAL = 2  # VIR_MEMORY_PHYSICAL

# A boot sector that counts in the first word of each page from BEGIN to END, in order and without end.
COUNTING = bytes.fromhex(
    "fa"  # cli
    "b80010"  # round: mov ax, 0x1000
    "8ec0"  # page: mov es, ax
    "26ff060000"  # inc word [es:0]
    "050001"  # add ax, 0x100
    "3d0090"  # cmp ax, 0x9000
    "72f1"  # jb page
    "ebec"  # jmp round
)


@pytest.fixture
def sides(hosts: tuple[Host, Host], guest_dir: Path) -> Iterator[tuple[Side, Side]]:
    """Slow enough that the memory is gone through more than twice."""
    with ExitStack() as stack:
        yield pair(stack, hosts, guest_dir, "memory", ("images",), bandwidth=MiB, downtime=2000, translated="pause")


def counters(where: Side, instance: Instance) -> list[int]:
    guest = where.driver.rooms.hypervisor.guest(instance.uuid)
    memory = guest.call("look into the memory of", lambda d: bytes(d.memoryPeek(BEGIN, END - BEGIN, _PHYSICAL)))
    return [int.from_bytes(memory[at : at + 2], "little") for at in range(0, len(memory), PAGE)]


def counts(where: Side, instance: Instance) -> None:
    first = counters(where, instance)
    until(lambda: counters(where, instance) != first, "a guest that counts")


def test_no_write_is_lost_on_the_way(sides: tuple[Side, Side], tmp_path: Path) -> None:
    """Once the counters differ by more than the round that goes on, they do so for ever."""
    source, target = sides
    disk = tmp_path / "counting.raw"
    disk.write_bytes((COUNTING.ljust(510, b"\0") + b"\x55\xaa").ljust(MiB, b"\0"))
    instance = source.spawn(source.image(str(disk)), flavor=Flavor(vcpus=1, memory=64 * MiB))
    try:
        until(lambda: len(set(counters(source, instance))) <= 2 and min(counters(source, instance)) > 0, "the boot")
        counts(source, instance)
        begun = time.monotonic()
        calls = go(source, target, instance, prepared(source, target, instance))
        assert calls.made == ["post"], calls.data.get("error")
        print(f"{time.monotonic() - begun:.1f} s, {calls.data['statistics']}")
        counts(target, instance)
        target.driver.pause(instance)
        found = counters(target, instance)
        assert sorted(found, reverse=True) == found and found[0] - found[-1] in (0, 1), found
    finally:
        target.driver.destroy(None, instance, [])
        source.driver.destroy(None, instance, [])
