"""Cold moves of real disks between two hosts: files, encrypted ones, and what breaks on the way."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed.disks import manifest
from cowshed.driver.steps import arriving, host_state, taking, tpm
from cowshed.errors import (
    Conflict,
    CowshedError,
    DataCorrupt,
    HostUnsuitable,
    NameTaken,
    NotFound,
    ToolFailed,
    UnsupportedOperation,
)
from cowshed.host import facts
from cowshed.model.disk import Base, DiskFormat
from cowshed.model.instance import Instance
from cowshed.tools import sparse
from tests.cold_moves import Move, Side, connected
from tests.unit.test_driver_disks import SIZE

KINDS = ("raw", "qcow2", "qcow2 on a base", "ploop")


@pytest.fixture
def sides(tmp_path: Path) -> tuple[Side, Side]:
    return Side(tmp_path / "host-a"), Side(tmp_path / "host-b")


def made(source: Side, kind: str, *, encrypt: bool = False) -> Instance:
    """An instance with one disk whose content begins with ``source.content``."""
    backend, _, base = kind.partition(" on a ")
    who = source.web(backend, encrypt=encrypt)
    if not (encrypt or base):
        return who
    disk = source.disk(who)
    disk.delete()
    if base:
        path = source.rooms.cache.root / "the-base"
        path.parent.mkdir(parents=True, exist_ok=True)
        base_made = source.rooms.cache.adopt(
            Base(path, DiskFormat.RAW, 0, digest="sha256:0", image_id="image"), lambda fd: write(fd, source.content)
        )
        disk.create(SIZE, base_made, encrypt=encrypt)
    else:
        new = source.rooms.state / "content"
        new.write_bytes(source.content)
        disk.import_file(new, encrypt=encrypt)  # type: ignore[attr-defined]
    return who


def write(fd: int, data: bytes) -> None:
    from cowshed.tools import filesystem

    filesystem.write_all(fd, data, 0)


def content(side: Side, who: Instance) -> bytes:
    target = side.rooms.state / "seen"
    options: dict[str, Any] = {"plaintext": True} if side.disk(who).info().encryption else {}
    side.disk(who).extract(target, DiskFormat.RAW, **options)
    try:
        return target.read_bytes()
    finally:
        target.unlink()


def key(side: Side, who: Instance) -> str:
    found = manifest.require(side.rooms.directory(who.uuid).path, "disk").encryption
    assert found is not None
    return found.key_id


@pytest.fixture(params=[*KINDS, "raw encrypted", "qcow2 encrypted", "qcow2 on a base encrypted"])
def move(request: pytest.FixtureRequest, sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch) -> Iterator[Move]:
    source, target = sides
    kind = request.param.removesuffix(" encrypted")
    found = Move(source, target, made(source, kind, encrypt=kind != request.param))
    with connected(found, monkeypatch):
        yield found


def grown(move: Move) -> None:
    """It is whole at the target, and larger; what is new of a LUKS container reads as noise."""
    found = content(move.target, move.instance)
    assert len(found) == 2 * SIZE
    assert found[:SIZE] == move.source.content
    assert move.target.keys.held or not any(found[SIZE:])


def test_there_back_and_there(move: Move) -> None:
    source, target, who = move.source, move.target, move.instance
    keys = dict(source.keys.held)
    move.finish(target, move.leave())
    grown(move)
    assert content(source, who) == source.content
    assert source.keys.held == keys
    assert sorted(target.keys.held.values()) == sorted(keys.values())
    assert not set(target.keys.held) & set(keys)  # neither removes the other's, wherever keys are kept
    move.revert()
    move.nothing_at(target)
    assert target.keys.held == {}
    assert content(source, who) == source.content

    move.finish(target, move.leave())
    move.confirm()
    move.nothing_at(source)
    assert source.keys.held == {}
    grown(move)


@pytest.mark.parametrize("kind", ["qcow2", "qcow2 on a base", "qcow2 encrypted"])
def test_snapshots_inside_a_file_go_along(sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    source, target = sides
    plain = kind.removesuffix(" encrypted")
    found = Move(source, target, made(source, plain, encrypt=kind != plain))
    who = found.instance
    for name in ("one", "two"):
        source.disk(who).take(name)  # type: ignore[attr-defined]
    with connected(found, monkeypatch):
        for last in (False, True):
            found.finish(target, found.leave())
            grown(found)
            assert [(one.name, one.parent) for one in snapshots(target, who)] == [("one", None), ("two", "one")]
            if not last:
                found.revert()
                assert len(snapshots(source, who)) == 2
        found.confirm()
        target.disk(who).roll_back("one")  # type: ignore[attr-defined]
        assert content(target, who) == source.content
        target.disk(who).remove("two")  # type: ignore[attr-defined]

    # They are seen to be in it before it is taken.
    lies = manifest.require(target.rooms.directory(who.uuid).path, "disk")
    told = replace(lies, snapshots=(*lies.snapshots, replace(lies.snapshots[0], name="more")))
    with (target.rooms.directory(who.uuid).path / "disk").open("rb") as file, pytest.raises(DataCorrupt, match="more"):
        taking.check_qcow2(file.fileno(), Path("disk"), told)


def snapshots(side: Side, who: Instance) -> Any:
    return side.disk(who).snapshots()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["qcow2", "raw"])
def test_snapshots_outlive_a_resize_that_is_reverted(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    source, _ = sides
    found = Move(source, source, made(source, kind))
    who = found.instance
    source.disk(who).take("before")  # type: ignore[attr-defined]
    with connected(found, monkeypatch):
        found.finish(source, found.leave("localhost"))
        source.driver.finish_revert_migration(None, who, [], power_on=False)
    assert [one.name for one in snapshots(source, who)] == ["before"]
    source.disk(who).roll_back("before")  # type: ignore[attr-defined]
    assert content(source, who) == source.content


def test_a_copy_that_breaks_off_leaves_all_as_it_was(move: Move) -> None:
    source, target, who = move.source, move.target, move.instance
    keys = dict(source.keys.held)
    for cut in (16_000, 1_500_000):  # in what is said, and in the content
        move.cut = cut
        with pytest.raises(ToolFailed):
            move.leave()
        move.nothing_at(target)
        assert target.keys.held == {} and source.keys.held == keys
        assert not source.driver.resized(who)
        assert content(source, who) == source.content
    move.cut = 0
    move.finish(target, move.leave())
    grown(move)


def test_what_came_before_and_was_given_up_makes_room(move: Move) -> None:
    """The source was killed, or did not hear that all had come: nobody has told the target that it shall go."""
    source, target, who = move.source, move.target, move.instance
    keys = dict(source.keys.held)
    move.leave()
    source.driver.finish_revert_migration(None, who, [], power_on=False)
    assert target.rooms.directory(who.uuid).exists()
    move.finish(target, move.leave())
    grown(move)
    assert sorted(target.keys.held.values()) == sorted(keys.values())


def test_keys_that_both_hosts_keep_in_one_place_outlive_the_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Side(tmp_path / "host-a")
    target = Side(tmp_path / "host-b", source.keys)
    found = Move(source, target, made(source, "raw", encrypt=True))
    with connected(found, monkeypatch):
        found.finish(target, found.leave())
        found.confirm()
    assert list(source.keys.held) == [key(target, found.instance)]
    grown(found)


def test_in_cipher_all_the_way(sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = sides
    found = Move(source, target, made(source, "raw", encrypt=True))
    with connected(found, monkeypatch):
        found.finish(target, found.leave())
    sent = (target.rooms.directory(found.instance.uuid).path / "disk").read_bytes()
    assert sent[:4] == b"LUKS" and source.content[:4096] not in sent


@pytest.mark.parametrize("kind", ["raw", "qcow2"])
def test_what_is_not_what_it_is_said_to_be_is_not_taken(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """The manifest says that it is encrypted, and the file is not: QEMU there would be given an open disk."""
    source, target = sides
    found = Move(source, target, made(source, kind, encrypt=True))
    path = source.rooms.directory(found.instance.uuid).path / "disk"
    subprocess.run(["qemu-img", "create", "-q", "-f", kind, str(path), str(SIZE)], check=True)
    with connected(found, monkeypatch), pytest.raises(DataCorrupt):
        found.leave()
    found.nothing_at(target)
    assert target.keys.held == {} and len(source.keys.held) == 1


def test_what_both_hosts_see_is_never_discarded(
    tmp_path: Path, sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where it came to that directory by an earlier move."""
    third, source = sides
    target = Side(tmp_path / "host-c")
    earlier = Move(third, source, made(third, "raw"))
    with connected(earlier, monkeypatch):
        earlier.finish(source, earlier.leave())
        earlier.confirm()
    before = content(source, earlier.instance)
    target.rooms.instances.symlink_to(source.rooms.instances)
    found = Move(source, target, earlier.instance)
    with connected(found, monkeypatch):
        found.leave()
        found.revert()
    assert content(source, found.instance) == before


def test_firmware_and_tpm_as_they_are_when_the_guest_is_off(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = sides
    found = Move(source, target, made(source, "raw"))
    who = found.instance
    for side in sides:
        usual = side.rooms.config
        place = str(side.rooms.state / "swtpm")
        side.rooms.config = replace(usual, guest=replace(usual.guest, tpm_directory=place))
    source.guest.devices = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"  # type: ignore[attr-defined]
    memory, there = (tpm.place(side.rooms, who.uuid) / "tpm2" for side in sides)
    memory.mkdir(parents=True)
    (memory / ".lock").touch()
    variables = source.rooms.directory(who.uuid).path / "nvram.fd"

    def off() -> bool:
        (memory / "tpm2-00.permall").write_bytes(b"when it is off")
        variables.write_bytes(b"too")
        return True

    variables.write_bytes(b"while it runs")
    with connected(found, monkeypatch):
        with monkeypatch.context() as running:
            running.setattr(source.guest, "ended", lambda: pytest.fail("it was stopped"))
            target.rooms.capabilities.tpm_versions = ()  # type: ignore[misc]
            refused(found, HostUnsuitable, "no swtpm")
            target.rooms.capabilities.tpm_versions = ("2.0",)  # type: ignore[misc]
            there.mkdir(parents=True)
            refused(found, NameTaken, "TPM")  # somebody's
            there.rmdir()
            there.parent.rmdir()
            running.setattr(tpm, "_may", lambda rooms: rooms is not source.rooms)
            refused(found, UnsupportedOperation, "only root")
            running.setattr(tpm, "_may", lambda rooms: rooms is not target.rooms)
            refused(found, HostUnsuitable, "only root")
        monkeypatch.setattr(source.guest, "ended", off)
        found.cut = 1_500_000  # in the disk, which comes last
        with pytest.raises(ToolFailed):
            found.leave()
        found.nothing_at(target)
        assert not list(there.parent.parent.iterdir())
        found.cut = 0
        for last in (False, True):
            found.finish(target, found.leave())
            assert [path.name for path in there.iterdir()] == ["tpm2-00.permall"]
            assert (there / "tpm2-00.permall").read_bytes() == b"when it is off"
            assert (target.rooms.directory(who.uuid).path / "nvram.fd").read_bytes() == b"too"
            if not last:
                found.revert()
                assert not list(there.parent.parent.iterdir())
                assert (memory / "tpm2-00.permall").exists()


@pytest.mark.parametrize(
    "told", [{"../x": ""}, {"tpm2/../../x": ""}, {"tpm2/a": "!"}, {"tpm2/a": "eJw="}, {"tpm2/a": 5}]
)
def test_what_no_tpm_remembers_is_not_written(sides: tuple[Side, Side], told: dict[str, Any]) -> None:
    rooms = sides[0].rooms
    rooms.config = replace(rooms.config, guest=replace(rooms.config.guest, tpm_directory=str(rooms.state / "swtpm")))
    with pytest.raises(DataCorrupt):
        tpm.unpack(rooms, "11111111-2222-3333-4444-555555555555", told)
    assert not (rooms.state / "swtpm").exists()


def refused(found: Move, kind: type[CowshedError], match: str) -> None:
    with pytest.raises(kind, match=match):
        found.leave()
    assert not found.source.driver.resized(found.instance)
    assert content(found.source, found.instance) == found.source.content


def test_what_is_refused_before_it_is_stopped(sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = sides
    for kind in ("raw", "ploop"):
        kept_beside = Move(source, target, made(source, kind))
        source.disk(kept_beside.instance).take("before")  # type: ignore[attr-defined]
        with connected(kept_beside, monkeypatch):
            refused(kept_beside, Conflict, "keeps them beside it: before")
    found = Move(source, target, made(source, "qcow2"))
    who, place = found.instance, target.rooms.directory(found.instance.uuid).path
    with connected(found, monkeypatch):
        monkeypatch.setattr(source.guest, "ended", lambda: pytest.fail("it was stopped"))
        host_state.disable(target.rooms, host_state.DECIDED, "its fan is loud")
        refused(found, HostUnsuitable, "its fan is loud")
        host_state.enable(target.rooms, host_state.DECIDED)

        place.mkdir(parents=True)
        refused(found, NameTaken, "instance directory")
        place.rmdir()

        target.defined, target.guest.uuid = True, who.uuid  # type: ignore[attr-defined]
        target.rooms.hypervisor.guests = lambda: [target.guest]  # type: ignore[method-assign]
        refused(found, NameTaken, "domain")
        target.guest.uuid = "another"  # type: ignore[attr-defined]
        refused(found, NameTaken, "web")
        target.rooms.hypervisor.guests = list  # type: ignore[method-assign,assignment]

        target.rooms.capabilities.arch = "aarch64"  # type: ignore[misc]
        refused(found, HostUnsuitable, "aarch64")
        target.rooms.capabilities.arch = "x86_64"  # type: ignore[misc]

        with monkeypatch.context() as small:
            small.setattr(facts, "most_memory", lambda: found.larger.memory - 1)
            refused(found, HostUnsuitable, "of memory are more than the")

        usual = target.rooms.config
        target.rooms.config = replace(usual, host=replace(usual.host, reserved_disk=1 << 60))
        refused(found, HostUnsuitable, "free")
        target.rooms.config = usual
        move_nothing(found)


def test_a_base_that_has_to_come_along_has_room_there(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = sides
    found = Move(source, target, made(source, "qcow2 on a base"))
    base = sparse.allocated(source.rooms.cache.root / "the-base")
    assert base >= len(source.content)
    needed = base + source.disk(found.instance).info().allocated
    with connected(found, monkeypatch):
        with monkeypatch.context() as full:
            full.setattr(source.guest, "ended", lambda: pytest.fail("it was stopped"))
            full.setattr(arriving, "available", lambda rooms: {"qcow2": needed - 1})
            refused(found, HostUnsuitable, "the backend qcow2 of the destination")
            move_nothing(found)
        monkeypatch.setattr(arriving, "available", lambda rooms: {"qcow2": needed})
        found.finish(target, found.leave())
        grown(found)
        found.revert()
        # The base stays there: now only the disk has to come.
        monkeypatch.setattr(arriving, "available", lambda rooms: {"qcow2": needed - base})
        found.finish(target, found.leave())
        grown(found)


def move_nothing(found: Move) -> None:
    found.nothing_at(found.target)
    assert found.target.keys.held == {}


def test_a_lost_key_is_found_out_before_it_is_stopped(
    sides: tuple[Side, Side], monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = sides
    lost = Move(source, target, made(source, "raw", encrypt=True))
    source.keys.held.clear()
    with connected(lost, monkeypatch), pytest.raises(NotFound, match="key"):
        lost.leave()
    lost.nothing_at(target)
