"""scripts/ceph-node.sh: a cluster on this machine that ends when it shall."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ceph_node import OWNER, Ceph, start, stop


def _processes(place: Path) -> list[str]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().replace(b"\0", b" ").decode()
        except OSError:
            continue
        if words.startswith("ceph-") and str(place) in words:
            found.append(words)
    return found


def test_two_clusters_at_once_know_nothing_of_each_other(ceph: Ceph, other_ceph: Callable[..., Ceph]) -> None:
    other = other_ceph("--ipv6", "--size", "1G")
    assert ceph.fsid != other.fsid
    pool = other.make_pool()
    other.rbd("create", f"{pool}/one", "--size", "1M")
    assert other.images(pool) == ["one"]
    assert pool not in ceph.command("osd", "pool", "ls", "--format", "json")
    assert other.command("df", "--format", "json")["stats"]["total_bytes"] == 1 << 30
    stop(other.place)
    assert _processes(other.place) == []
    assert ceph.command("osd", "pool", "ls", "--format", "json")


def test_a_cluster_ends_with_the_process_it_was_made_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(f"/tmp/cowshed-ceph-{os.getpid()}-end")
    with subprocess.Popen(["sleep", "600"]) as owner:
        monkeypatch.setenv(OWNER, str(owner.pid))
        try:
            start(place)
            assert len(_processes(place)) == 3
        finally:
            owner.kill()
    deadline = time.monotonic() + 30
    while _processes(place) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert _processes(place) == []
    stop(place)
