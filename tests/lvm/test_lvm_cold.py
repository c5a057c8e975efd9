"""Cold moves of volumes between two hosts: two volume groups of one kernel, a driver on each."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cowshed.disks.lvm import LvmBackend
from cowshed.driver.steps import teardown
from cowshed.errors import HostUnsuitable, NameTaken, ToolFailed
from cowshed.migration.transport import Channel
from cowshed.model.disk import DiskFormat
from cowshed.model.instance import Instance
from cowshed.tools import lvm
from cowshed.units import MiB
from tests.cold_moves import LARGE, Move, Side, connected
from tests.lvm.conftest import GROUP, TINY, make_backend
from tests.unit.test_driver_disks import SIZE


class Volumes:
    """Host A has its volumes in the large group, host B in the tiny one, thin or thick as asked."""

    def __init__(self, place: Path, *, thin: bool) -> None:
        self.source, self.target = Side(place / "host-a"), Side(place / "host-b")
        self.of = {}
        for side, group in ((self.source, GROUP), (self.target, TINY)):
            side.use(make_backend(side.rooms.state, thin=thin, group=group, keys=side.keys))
            self.of[side] = group

    def named(self, side: Side, who: Instance) -> list[str]:
        return [name for name in lvm.volumes(self.of[side]) if name.startswith(who.uuid)]


@pytest.fixture(params=["thick", "thin"])
def volumes(request: pytest.FixtureRequest, tmp_path: Path) -> Volumes:
    return Volumes(tmp_path, thin=request.param == "thin")


@pytest.fixture
def move(volumes: Volumes, monkeypatch: pytest.MonkeyPatch) -> Iterator[Move]:
    found = Move(volumes.source, volumes.target, volumes.source.web("lvm"))
    with connected(found, monkeypatch):
        yield found
    for side in (volumes.source, volumes.target):
        side.defined = False
        teardown.delete_disks(side.rooms, found.instance)
        assert volumes.named(side, found.instance) == []
    _cleared()


def test_there_back_and_there(move: Move, volumes: Volumes) -> None:
    source, target, who = move.source, move.target, move.instance
    move.finish(target, move.leave())
    assert target.read(who) == source.content + bytes(SIZE)
    assert source.read(who) == source.content
    assert len(volumes.named(target, who)) == len(volumes.named(source, who)) == 1
    move.revert()
    move.nothing_at(target)
    assert volumes.named(target, who) == []
    assert source.read(who) == source.content
    _cleared()

    move.finish(target, move.leave())
    move.confirm()
    move.nothing_at(source)
    assert volumes.named(source, who) == []
    assert target.read(who) == source.content + bytes(SIZE)


def test_resize_in_place(move: Move, volumes: Volumes) -> None:
    source, who = move.source, move.instance
    for last in (False, True):
        move.finish(source, move.leave("localhost"))
        assert source.read(who) == source.content + bytes(SIZE)
        assert len(volumes.named(source, who)) == 2  # the volume, and what is kept of it
        if last:
            source.driver.confirm_migration(None, who, [])
        else:
            source.driver.finish_revert_migration(None, who, [], power_on=False)
            assert source.read(who) == source.content
        assert len(volumes.named(source, who)) == 1
        assert not source.driver.resized(who)
    assert source.read(who) == source.content + bytes(SIZE)


def test_what_goes_wrong_leaves_it_as_it_was(move: Move, volumes: Volumes) -> None:
    source, target, who = move.source, move.target, move.instance

    def unmoved() -> None:
        move.nothing_at(target)
        assert not source.driver.resized(who)
        assert source.read(who) == source.content

    # The cable is cut in the content.
    move.cut = MiB
    with pytest.raises(ToolFailed):
        move.leave()
    assert volumes.named(target, who) == []
    unmoved()
    move.cut = 0

    # Somebody has a volume of that name there: his it stays.
    taken = lvm.disk_volume(TINY, who.uuid, "disk")
    backend = target.rooms.backends["lvm"]
    assert isinstance(backend, LvmBackend)
    stranger = Side(target.rooms.state / "stranger")
    stranger.use(make_backend(stranger.rooms.state, thin=bool(backend.section.thin_pool), group=TINY))
    stranger.put(who, "disk", "lvm", b"a stranger's".ljust(MiB, b"\0"))
    with pytest.raises(NameTaken):
        move.leave()
    assert volumes.named(target, who) == [taken]
    unmoved()
    assert stranger.read(who)[:12] == b"a stranger's"
    stranger.disk(who).delete()
    assert volumes.named(target, who) == []


def test_a_full_group_is_found_out_before_it_is_stopped(volumes: Volumes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thick volume needs its size, a thin one what was written to it."""
    source, target = volumes.source, volumes.target
    thin = bool(source.rooms.backends["lvm"].section.thin_pool)  # type: ignore[attr-defined]
    source.content = os.urandom(48 * MiB) if thin else bytes(104 * MiB)
    found = Move(source, target, source.web("lvm"))
    found.larger = replace(LARGE, root=256 * MiB)
    with connected(found, monkeypatch):
        monkeypatch.setattr(source.guest, "ended", lambda: pytest.fail("it was stopped"))
        with pytest.raises(HostUnsuitable, match="free"):
            found.leave()
    found.nothing_at(target)
    assert volumes.named(target, found.instance) == []
    source.disk(found.instance).delete()
    _cleared()


def test_an_encrypted_volume_goes_in_cipher(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """dm-crypt on both hosts; on its way, and in every file, QEMU's. The key there is another one."""
    volumes = Volumes(tmp_path, thin=False)
    source, target = volumes.source, volumes.target
    who = replace(source.web("raw"), backend="lvm")
    source.disk(who).delete()
    new = source.rooms.state / "content"
    new.write_bytes(source.content)
    source.rooms.backends["lvm"].disk(who.uuid, "disk").import_file(new, encrypt=True)  # type: ignore[attr-defined]
    keys, found, sent = dict(source.keys.held), Move(source, target, who), []
    write = Channel._write

    def heard(channel: Channel, data: bytes) -> None:
        sent.append(bytes(data))
        write(channel, data)

    monkeypatch.setattr(Channel, "_write", heard)
    with connected(found, monkeypatch):
        found.cut = MiB
        with pytest.raises(ToolFailed):
            found.leave()
        found.nothing_at(target)
        assert volumes.named(target, who) == [] and target.keys.held == {}
        found.cut = 0
        found.finish(target, found.leave())
        assert _plain(target, who) == source.content + bytes(SIZE)
        assert source.content[:64] not in b"".join(sent)
        assert len(target.keys.held) == 1 and not set(target.keys.held.values()) & set(keys.values())
        found.revert()
        found.nothing_at(target)
        assert volumes.named(target, who) == [] and target.keys.held == {}
        assert source.keys.held == keys and _plain(source, who) == source.content
    source.disk(who).delete()
    _cleared()


def _plain(side: Side, who: Instance) -> bytes:
    path = side.rooms.state / "seen"
    side.disk(who).extract(path, DiskFormat.RAW, plaintext=True)
    try:
        return path.read_bytes()
    finally:
        path.unlink()


def _cleared() -> None:
    """What was deleted is cleared behind our back."""
    deadline = time.monotonic() + 120
    while [name for group in (GROUP, TINY) for name in lvm.volumes(group) if name.startswith("cowshed-gone")]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
