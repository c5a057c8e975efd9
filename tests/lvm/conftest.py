"""Tests on a real device-mapper, inside the guest of ``scripts/run-in-guest.py`` (``make test-lvm``)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed.config import LvmSection
from cowshed.disks.lvm import LvmBackend, open_backend
from cowshed.hypervisor import session
from cowshed.testing import MemoryKeys
from cowshed.tools import lvm
from tests.conftest import ROOT
from tests.vm.conftest import end, start_daemon

if "IN_GUEST" not in os.environ:
    collect_ignore_glob = ["test_*.py"]

GROUP, POOL = "cow-shed", "pool"
TINY = "tiny"
FOREIGN = "00000000-0000-4000-8000-00000000f0e1"  # somebody else has a volume called <this>_disk


def make_backend(
    root: Path, *, thin: bool, group: str = GROUP, keys: MemoryKeys | None = None, **options: str | int
) -> LvmBackend:
    chosen = {"volume_group": group, "thin_pool": POOL if thin else "", "clear": "zero", **options}
    section = LvmSection(**chosen)  # type: ignore[arg-type]
    return open_backend(root / "instances", section, keys or MemoryKeys())


@pytest.fixture(scope="session")
def guest_dir() -> Path:
    """The tiny guest, which ``make test-lvm`` has built outside: an ordinary user in here may not write there."""
    built = ROOT / "build" / "guest"
    assert (built / "tiny.qcow2").exists(), "make guests"
    return built


@pytest.fixture(scope="session")
def libvirt_uri() -> Iterator[str]:
    """A private session daemon; there is no KVM in here that it would have to be kept from."""
    pid = start_daemon(hide=False)
    yield f"qemu+unix:///session?socket={session.runtime_directory()}/libvirt-sock"
    end(pid)


@pytest.fixture(scope="session", autouse=True)
def _nothing_unfinished() -> Iterator[None]:
    """Whatever the tests did, no volume is left half made, or half cleared, or open."""
    yield
    left = [
        name
        for group in (GROUP, TINY)
        for name in lvm.volumes(group)
        if name.startswith(("cowshed-new", "cowshed-gone"))
    ]
    assert left == []
    assert [path.name for path in Path("/dev/mapper").glob("cowshed-new-*")] == []
