"""Shares of a file server: a real NFS export, mounted by us. Here because the kernel of most test machines has no NFS."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cowshed.config import Config, HostSection
from cowshed.driver import LibvirtDriver
from cowshed.driver.steps import shares as steps
from cowshed.errors import CowshedError
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance
from cowshed.shares import record, spec
from cowshed.tools import mounts, virtiofsd

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts are root's")

# Version 4 alone, which needs no portmapper; clients of before a restart are not waited for.
_SERVER = r"""
set -e
modprobe -a nfsd nfs nfsv4
mkdir -p "$1" /var/lib/nfs/v4recovery
mount -t tmpfs tmpfs "$1"
mount -t nfsd nfsd /proc/fs/nfsd
touch /var/lib/nfs/etab /var/lib/nfs/rmtab /etc/exports
exportfs -o rw,no_root_squash,insecure,fsid=0,no_subtree_check "127.0.0.1:$1"
rpc.nfsd -N 3 1
rpc.mountd -N 3
echo Y >/proc/fs/nfsd/v4_end_grace
"""


@pytest.fixture(scope="module")
def exported() -> Path:
    """What ``nfs://127.0.0.1/`` is."""
    place = Path("/srv/exported")
    done = subprocess.run(
        ["sh", "-c", _SERVER, "sh", str(place)], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    (place / "hello").write_text("hello from the server")
    return place


@pytest.fixture
def driver(tmp_path: Path, libvirt_uri: str) -> Iterator[LibvirtDriver]:
    made = LibvirtDriver(config=Config(host=HostSection(uri=libvirt_uri, state=str(tmp_path / "state"))))
    yield made
    for path in made.rooms.instances.glob("*"):
        shutil.rmtree(path)
    steps.unmount_unused(made.rooms)
    assert mounts.below(made.rooms.shares) == []
    made.cleanup_host("here")


def instance(driver: LibvirtDriver) -> Instance:
    """One that is there, and off."""
    made = Instance(str(uuid.uuid4()), "web", Flavor())
    driver.rooms.directory(made.uuid).create()
    return made


def test_an_export_is_mounted_once_and_goes_with_its_last_instance(driver: LibvirtDriver, exported: Path) -> None:
    one, two, share = instance(driver), instance(driver), spec.parse("nfs://127.0.0.1/:data")
    assert not driver.is_share_mounted(None, one, share)
    for who in (one, two, one):
        driver.mount_share(None, who, share)
    (target,) = mounts.below(driver.rooms.shares)
    assert (target / "hello").read_text() == "hello from the server"
    (target / "answer").write_text("of the host")
    assert (exported / "answer").read_text() == "of the host"
    assert not os.statvfs(target).f_flag & os.ST_RDONLY
    assert os.statvfs(target).f_flag & os.ST_NOSUID

    # For reading only it is another mount.
    fixed = replace(share, read_only=True)
    third = instance(driver)
    driver.mount_share(None, third, fixed)
    place = steps.mountpoint(driver.rooms, fixed)
    assert place is not None
    assert os.statvfs(place).f_flag & os.ST_RDONLY
    assert driver.umount_share(None, third, fixed)
    assert mounts.below(driver.rooms.shares) == [target]

    assert not driver.umount_share(None, one, share), "the other instance has it"
    assert not driver.is_share_mounted(None, one, share)
    assert driver.is_share_mounted(None, two, share)
    for _ in range(2):
        assert driver.umount_share(None, two, share)
    assert mounts.below(driver.rooms.shares) == []
    assert not list(driver.rooms.shares.iterdir())


def test_a_guest_is_served_from_the_mount(driver: LibvirtDriver, exported: Path) -> None:
    who, share = instance(driver), spec.parse("nfs://127.0.0.1/:data")
    driver.mount_share(None, who, share)
    opened = steps.opened(driver.rooms, who, share)
    assert opened.socket is not None
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(opened.socket))
        pid = steps.pidfile(driver.rooms, who.uuid, share).read_text().split()[0]
        deadline = time.monotonic() + 20
        seen: set[str] = set()
        while "hello" not in seen:
            assert time.monotonic() < deadline, steps.pidfile(driver.rooms, who.uuid, share).with_suffix(".log")
            for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
                seen |= set(os.listdir(f"/proc/{child}/root"))
    steps.close(driver.rooms, who.uuid)
    assert not virtiofsd.alive(steps.pidfile(driver.rooms, who.uuid, share))


def test_an_export_that_is_not_there_changes_nothing(driver: LibvirtDriver, exported: Path) -> None:
    who = instance(driver)
    with pytest.raises(CowshedError, match="mount"):
        driver.mount_share(None, who, spec.parse("nfs://127.0.0.1/nothing:data"))
    assert record.load(driver.rooms.directory(who.uuid).path) == ()
    assert mounts.below(driver.rooms.shares) == []
    assert not list(driver.rooms.shares.iterdir())
