"""Directories that a guest mounts through virtiofs, where we start virtiofsd ourselves (libvirt of one user)."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cowshed.config import GuestSection, VolumesSection
from cowshed.driver.steps import shares as steps
from cowshed.errors import InvalidState, NameTaken, NotFound, ToolFailed, UnsupportedOperation
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState, RebootType
from cowshed.model.share import Share, ShareStatus
from cowshed.shares import spec
from cowshed.tools import virtiofsd
from tests.vm.machines import Machines, machines

# What it does is told on the console; what it is told stands in the first share: `mount` and `umount` name tags.
_INSIDE = r"""#!/bin/sh
say() { echo "inside: $*" >/dev/console; }
try() {
    mkdir -p /mnt/$1
    mount -t virtiofs $1 /mnt/$1 2>/dev/null || return 1
    say mounted $1 "$(cat /mnt/$1/hello 2>/dev/null)"
    if echo "of the guest" 2>/dev/null >/mnt/$1/answer; then say wrote $1; else say refused $1; fi
}
try data || say nothing
try second
(
    while sleep 0.3; do
        [ -e /mnt/data/reboot ] && rm /mnt/data/reboot && sync && reboot -f
        for tag in $(cat /mnt/data/mount 2>/dev/null); do grep -q "^$tag /mnt/" /proc/mounts || try $tag; done
        for tag in $(cat /mnt/data/umount 2>/dev/null); do
            grep -q "^$tag /mnt/" /proc/mounts && umount /mnt/$tag && say unmounted $tag
        done
    done
) &
"""


@pytest.fixture(scope="module")
def house(libvirt_uri: str, guest_dir: Path) -> Iterator[Machines]:
    sections = {"guest": GuestSection(config_drive=True), "volumes": VolumesSection(detach_timeout=10)}
    with machines(libvirt_uri, guest_dir, **sections) as made:
        yield made


@pytest.fixture(scope="module")
def image(house: Machines) -> Image:
    return house.image()


@pytest.fixture
def folder() -> Iterator[Callable[[str], Share]]:
    """Makes a directory with a greeting, and the share of it."""
    place = Path(tempfile.mkdtemp(prefix="cowshed-shared-", dir="/tmp"))

    def make(tag: str, *, read_only: bool = False) -> Share:
        (place / tag).mkdir()
        (place / tag / "hello").write_text(f"hello from {tag}\n")
        return spec.local(str(place / tag), read_only=read_only)

    yield make
    shutil.rmtree(place, ignore_errors=True)


def spawn(house: Machines, image: Image, *shares: Share) -> Instance:
    instance = house.instance(image, user_data=_INSIDE)
    house.driver.give_shares(None, instance, shares)
    return house.start(instance, image)


def pidfile(house: Machines, instance: Instance, share: Share) -> Path:
    return steps.pidfile(house.driver.rooms, instance.uuid, share)


def statuses(house: Machines, instance: Instance) -> dict[str, ShareStatus]:
    return {one.tag: one.status for one in house.driver.shares(instance)}


# It listens and takes the connection, and then cannot do what it must, as in a container that forbids namespaces.
_FAILS = r"""#!/usr/bin/python3
import socket, sys
print("Waiting for vhost-user socket connection...", flush=True)
number = next(word for word in sys.argv if word.startswith("--fd=")).partition("=")[2]
socket.socket(fileno=int(number)).accept()
sys.exit("pivot_root: not in here")
"""


def ends(pidfile: Path) -> bool:
    deadline = time.monotonic() + 10
    while virtiofsd.alive(pidfile) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not virtiofsd.alive(pidfile)


def test_a_guest_reads_and_writes_what_the_host_shares(
    house: Machines, image: Image, folder: Callable[..., Share]
) -> None:
    data, second, third = folder("data"), folder("second", read_only=True), folder("third")
    instance = spawn(house, image, data, second)
    house.wait(instance, "inside: mounted data hello from data")
    house.wait(instance, "inside: wrote data")
    assert (Path(data.source) / "answer").read_text() == "of the guest\n"
    house.wait(instance, "inside: mounted second hello from second")
    house.wait(instance, "inside: refused second")
    assert not (Path(second.source) / "answer").exists()
    assert statuses(house, instance) == {"data": ShareStatus.ACTIVE, "second": ShareStatus.ACTIVE}
    assert house.driver.is_share_mounted(None, instance, data)

    # What cannot be done with shares is refused, and the guest goes on.
    with pytest.raises(UnsupportedOperation, match="shares directories"):
        house.driver.suspend(None, instance)
    with pytest.raises(InvalidState, match="deprived"):
        house.driver.umount_share(None, instance, data)
    found = house.driver.check_can_live_migrate_destination(None, house.instance(image), {}, {})
    with pytest.raises(UnsupportedOperation, match="while it runs"):
        house.driver.check_can_live_migrate_source(None, instance, found)
    house.driver.check_can_live_migrate_destination_cleanup(None, found)
    with pytest.raises(UnsupportedOperation, match="to another host"):
        house.driver.migrate_disk_and_power_off(None, instance, "192.0.2.1", instance.flavor, [])
    assert house.state_of(instance) == PowerState.RUNNING

    # Another one comes while it runs, and goes.
    house.driver.attach_share(instance, third)
    (Path(data.source) / "mount").write_text("third\n")
    house.wait(instance, "inside: mounted third hello from third")
    house.wait(instance, "inside: wrote third")
    assert (Path(third.source) / "answer").read_text() == "of the guest\n"
    with pytest.raises(NameTaken):
        house.driver.attach_share(instance, third)
    with pytest.raises(NameTaken, match="tag"):
        house.driver.attach_share(instance, replace(spec.local("/usr"), tag="third"))
    (Path(data.source) / "mount").unlink()
    (Path(data.source) / "umount").write_text("third\n")
    house.wait(instance, "inside: unmounted third")
    house.driver.detach_share(instance, third.id)
    assert ends(pidfile(house, instance, third))
    assert set(statuses(house, instance)) == {"data", "second"}
    with pytest.raises(NotFound):
        house.driver.detach_share(instance, third.id)

    # A guest that boots again by itself has them again.
    (Path(data.source) / "umount").unlink()
    (Path(data.source) / "reboot").touch()
    house.wait(instance, "(?s)boot 2.*inside: mounted second hello from second")
    assert statuses(house, instance) == {"data": ShareStatus.ACTIVE, "second": ShareStatus.ACTIVE}

    # They are there again after a stop and a start, without being said again.
    house.driver.power_off(instance)
    assert ends(pidfile(house, instance, data))
    assert ends(pidfile(house, instance, second))
    assert statuses(house, instance) == {"data": ShareStatus.INACTIVE, "second": ShareStatus.INACTIVE}
    house.driver.power_on(None, instance, [])
    house.wait(instance, "(?s)boot 3.*inside: mounted data hello from data")

    # A virtiofsd that is gone is told of.
    os.kill(int(pidfile(house, instance, data).read_text().split()[0]), signal.SIGKILL)
    assert ends(pidfile(house, instance, data))
    assert statuses(house, instance)["data"] == ShareStatus.ERROR

    # A directory that has gone meanwhile: refused before the running guest is touched.
    Path(second.source).rename(f"{second.source}-away")
    with pytest.raises(NotFound, match="directory"):
        house.driver.reboot(None, instance, [], RebootType.HARD)
    assert house.state_of(instance) == PowerState.RUNNING
    Path(f"{second.source}-away").rename(second.source)
    house.driver.reboot(None, instance, [], RebootType.HARD)
    assert statuses(house, instance) == {"data": ShareStatus.ACTIVE, "second": ShareStatus.ACTIVE}

    # What a killed start has left, which waits for a guest that never comes, goes with the instance.
    house.driver.power_off(instance)
    steps.opened(house.driver.rooms, instance, data)
    file = pidfile(house, instance, data)
    assert virtiofsd.alive(file)
    left = int(file.read_text().split()[0])
    house.driver.destroy(None, instance, [])
    house.assert_nothing_left(instance)
    assert not Path(f"/proc/{left}/exe").exists()
    assert not list(steps.socket(instance.uuid, data).parent.glob("share-*")), "no socket is left"


def test_a_virtiofsd_that_fails_is_heard_and_nothing_is_left(
    house: Machines, image: Image, folder: Callable[..., Share], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "virtiofsd"
    program.write_text(_FAILS)
    program.chmod(0o755)
    monkeypatch.setattr(virtiofsd, "find", lambda: str(program))
    instance, data = house.instance(image), folder("data")
    house.driver.give_shares(None, instance, [data])
    with pytest.raises(ToolFailed, match="not in here"):
        house.start(instance, image)
    house.assert_nothing_left(instance)
    assert not steps.socket(instance.uuid, data).exists()
