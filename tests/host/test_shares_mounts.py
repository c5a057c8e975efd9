"""Read-only shares of the system's libvirt: real bind mounts, made once for all and gone with the last."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import Config, HostSection
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import shares as steps
from cowshed.errors import NotFound, ToolFailed
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance
from cowshed.model.share import Share
from cowshed.shares import spec
from cowshed.tools import mounts, privilege

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts are root's")


@pytest.fixture
def rooms(tmp_path: Path) -> Iterator[Rooms]:
    made = Rooms(Config(host=HostSection(uri="qemu:///system", state=str(tmp_path / "state"))))
    yield made
    for target in mounts.below(tmp_path):
        subprocess.run(["umount", "--lazy", str(target)], check=False, timeout=30)


@pytest.fixture
def share(tmp_path: Path) -> Share:
    place = tmp_path / "with a blank"
    (place / "below").mkdir(parents=True)
    (place / "hello").write_text("hello")
    return spec.local(str(place), "data", read_only=True)


def instance(rooms: Rooms, *shares: Share) -> Instance:
    made = Instance(str(uuid.uuid4()), "web", Flavor())
    rooms.directory(made.uuid).create()
    steps.keep(rooms, made, shares)
    return made


def test_what_is_read_only_cannot_be_written_to_and_shows_nothing_below(rooms: Rooms, share: Share) -> None:
    below = Path(share.source) / "below"
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", str(below)], check=True, timeout=30)
    (below / "secret").touch()
    target = steps.mount(rooms, share)
    assert target.parent == rooms.shares
    assert (target / "hello").read_text() == "hello"
    with pytest.raises(OSError, match="Read-only"):
        (target / "new").touch()
    assert not list((target / "below").iterdir()), "what could be written to is not there"
    (Path(share.source) / "new").touch()
    assert (target / "new").exists()
    assert steps.mount(rooms, replace(share, read_only=False)) == Path(share.source)


def test_many_at_once_mount_it_once_and_the_last_unmounts_it(rooms: Rooms, share: Share) -> None:
    users = [instance(rooms, share) for _ in range(6)]
    with ThreadPoolExecutor(6) as pool:
        (target,) = set(pool.map(lambda _: steps.mount(rooms, share), users))
    assert Path("/proc/self/mountinfo").read_text().count(f" {target} ") == 1
    for number, one in enumerate(users, 1):
        assert mounts.mounted(target)
        steps.forget(rooms, one, share)
        assert steps.used(rooms, share) == (number < len(users))
    assert not target.exists()
    assert list((rooms.state / "locks").iterdir()) == []
    steps.unmount_unused(rooms)


def test_what_cannot_be_mounted_leaves_nothing(rooms: Rooms, share: Share, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(NotFound):
        steps.mount(rooms, replace(share, source=f"{share.source}/missing"))
    assert not rooms.shares.exists()
    real = privilege.run

    def run(words: list[str], **more: Any) -> Any:
        if words[2].startswith("remount"):
            raise ToolFailed(command="mount", status=32, output="of a test")
        return real(words, **more)

    monkeypatch.setattr(privilege, "run", run)
    with pytest.raises(ToolFailed, match="of a test"):  # it is there by then, and not read-only: it must not stay
        steps.mount(rooms, share)
    assert not list(rooms.shares.iterdir())
    assert mounts.below(rooms.shares) == []


def test_one_that_is_in_use_does_not_keep_others(rooms: Rooms, share: Share, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    busy, free = steps.mount(rooms, share), steps.mount(rooms, spec.local(str(tmp_path / "other"), read_only=True))
    with (busy / "hello").open():
        steps.unmount_unused(rooms)
        assert mounts.below(rooms.shares) == [busy]
    assert not free.exists()
    steps.unmount_unused(rooms)
    assert mounts.below(rooms.shares) == []
