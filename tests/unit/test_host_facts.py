"""Facts of the host from /proc, and the dict that a scheduler gets."""

from __future__ import annotations

import ipaddress
import json
import struct
import time
from pathlib import Path

import pytest

from cowshed.host import facts, resources
from cowshed.units import GiB, MiB

NOON = time.struct_time((2026, 1, 2, 12, 34, 56, 4, 2, 0))


def proc(tmp_path: Path, **files: str) -> Path:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def utmp(tmp_path: Path, *kinds: int) -> Path:
    path = tmp_path / "utmp"
    path.write_bytes(b"".join(struct.pack("<h382x", kind) for kind in kinds))
    return path


@pytest.mark.parametrize(
    ("seconds", "kinds", "words"),
    [
        ("59.9", [], "up 0 min,  0 user"),
        ("3599", [2, 7], "up 59 min,  1 user"),
        ("3600", [7, 7, 8], "up  1:00,  2 users"),
        ("90061.5", [], "up 1 day,  1:01,  0 user"),
        ("8640059", [], "up 100 days, 0 min,  0 user"),
        ("4107600", [], "up 47 days, 13:00,  0 user"),
    ],
)
def test_the_line_of_uptime(tmp_path: Path, seconds: str, kinds: list[int], words: str) -> None:
    place = proc(tmp_path, uptime=f"{seconds} 1.0\n", loadavg="0.21 0.56 1.00 1/99 1234\n")
    line = facts.uptime(proc=place, utmp=utmp(tmp_path, *kinds), now=NOON)
    assert line == f" 12:34:56 {words},  load average: 0.21, 0.56, 1.00"


def test_uptime_of_this_machine_without_anybody_logged_in(tmp_path: Path) -> None:
    assert "load average" in facts.uptime(utmp=tmp_path / "none")


def test_cpu_stats(tmp_path: Path) -> None:
    text = "cpu  100 20 30 4000 50 6 7 8 0 0\ncpu0 1 1 1 1\n"
    stats = facts.cpu_stats(proc=proc(tmp_path, stat=text, cpuinfo="cpu MHz\t\t: 2596.1\ncpu MHz : 3100.9\n"))
    tick = 10_000_000
    assert (stats.user, stats.kernel, stats.idle, stats.iowait) == (120 * tick, 43 * tick, 4000 * tick, 50 * tick)
    assert stats.frequency == 3100
    before = facts.cpu_stats()
    assert before.idle + before.user > 0


def test_memory(tmp_path: Path) -> None:
    memory = facts.memory(proc=proc(tmp_path, meminfo="MemTotal: 1000 kB\nMemFree: 100 kB\nMemAvailable: 400 kB\n"))
    assert (memory.total, memory.available, memory.used) == (1000 * 1024, 400 * 1024, 600 * 1024)


def test_the_disk_of_a_folder_to_come(tmp_path: Path) -> None:
    space = facts.disk(tmp_path / "not" / "there")
    assert 0 < space.free <= space.total
    assert space.used <= space.total


def test_the_address_is_one() -> None:
    assert ipaddress.ip_address(facts.address())


TOTALS = resources.Totals(
    hostname="host.example",
    vcpus=8,
    memory=16 * GiB,
    disk=100 * GiB,
    disk_free=60 * GiB,
    memory_used=4 * GiB,
    virt_types=("kvm", "qemu"),
    version=(7, 2, 3),
    disk_overcommit=70 * GiB,
    reserved_memory=512 * MiB,
    cpu={"arch": "x86_64"},
    instances=3,
)


def test_the_contracts_dict() -> None:
    found = resources.available(TOTALS, resources.Usage(vcpus=2, memory=6 * GiB, disk=30 * GiB))
    wanted = {
        "vcpus": 8,
        "vcpus_used": 2,
        "memory_mb": 16384,
        "memory_mb_used": 6656,
        "local_gb": 100,
        "local_gb_used": 40,
        "disk_available_least": -10,
        "hypervisor_type": "QEMU",
        "hypervisor_version": 7002003,
        "hypervisor_hostname": "host.example",
        "supported_instances": [("x86_64", "kvm", "hvm"), ("x86_64", "qemu", "hvm")],
        "numa_topology": None,
        "stats": {"num_instances": 3},
    }
    assert {key: found[key] for key in wanted} == wanted
    assert json.loads(found["cpu_info"]) == {"arch": "x86_64"}
    assert json.loads(found["pci_passthrough_devices"]) == []


def test_what_the_host_itself_uses_counts() -> None:
    assert resources.available(TOTALS, resources.Usage())["memory_mb_used"] == 4096


def test_most_memory(tmp_path: Path) -> None:
    """What Linux lets one process ask for."""
    told = proc(tmp_path, meminfo="MemTotal: 1000 kB\nSwapTotal: 500 kB\nMemFree: 100 kB\n")
    (told / "sys/vm").mkdir(parents=True)
    for mode, most in (("0", 1500 * 1024), ("2", 1500 * 1024), ("1", None)):
        (told / "sys/vm/overcommit_memory").write_text(f"{mode}\n")
        assert facts.most_memory(proc=told) == most
