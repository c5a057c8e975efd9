"""Shares as they are written, checked and remembered; nothing runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from cowshed.config import Config, HostSection
from cowshed.driver import LibvirtDriver
from cowshed.driver.steps import shares as steps
from cowshed.errors import (
    Conflict,
    CowshedError,
    DataCorrupt,
    InstanceNotFound,
    InvalidRequest,
    NameTaken,
    NotFound,
    PermissionDenied,
    ToolMissing,
    UnsupportedOperation,
)
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.model.share import Share, ShareProtocol, ShareStatus
from cowshed.shares import check, record, spec
from cowshed.tools import mounts, run, virtiofsd
from cowshed.units import MiB
from tests.golden.domains import build, root

UUID = "11111111-2222-3333-4444-555555555555"
INSTANCE = Instance(UUID, "web", Flavor(memory=64 * MiB))
PRIVATE = Path("/nonexistent")


# --- as they are written ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "source", "tag", "read_only"),
    [
        ("/srv/data", "/srv/data", "data", False),
        ("/srv/data/", "/srv/data", "data", False),
        ("/srv/data:ro", "/srv/data", "data", True),
        ("/srv/data:rw", "/srv/data", "data", False),
        ("/srv/data:tag", "/srv/data", "tag", False),
        ("/srv/data:tag:ro", "/srv/data", "tag", True),
        ("/srv/a:b:tag:ro", "/srv/a:b", "tag", True),
        ("nfs://server/export", "server:/export", "export", False),
        ("nfs://server/a/b:tag:ro", "server:/a/b", "tag", True),
    ],
)
def test_a_word_is_a_share(text: str, source: str, tag: str, read_only: bool) -> None:
    found = spec.parse(text)
    assert (found.source, found.tag, found.read_only) == (source, tag, read_only)
    assert found.protocol == ("nfs" if text.startswith("nfs:") else "local")


@pytest.mark.parametrize("text", ["", ":tag", ":ro", "/", "/:ro", "nfs://", "nfs://server", "nfs:///export"])
def test_a_word_that_is_no_share(text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        spec.parse(text)
    assert caught.value.hint


def test_a_relative_directory_is_of_who_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    monkeypatch.chdir(tmp_path)
    assert spec.parse("real").source == str(tmp_path / "real")
    assert spec.parse("./link:tag").source == str(tmp_path / "real")
    assert spec.parse("real").id == spec.parse("link").id, "it is known by where it is"
    assert spec.parse("real").id != spec.parse(".:x").id


# --- what may be shared -----------------------------------------------------------------------


def share(path: Path | str = "/usr", tag: str = "data", **more: str | bool | ShareProtocol) -> Share:
    return replace(Share("1", tag, str(path)), **more)  # type: ignore[arg-type]


def refused(one: Share, kind: type[CowshedError], words: str, private: Path = PRIVATE) -> None:
    with pytest.raises(kind, match=words) as caught:
        check.check([one], private=private)
    assert type(caught.value) is kind


def test_a_directory_is_fine(tmp_path: Path) -> None:
    check.check([share(tmp_path), share("/usr", "x" * check.TAG, id="2")], private=PRIVATE)
    check.check([], private=PRIVATE)


def test_what_is_no_directory_that_can_be_shared(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "a,b").mkdir()
    (tmp_path / "a\\b").mkdir()
    (tmp_path / "state" / "instances").mkdir(parents=True)
    (tmp_path / "way-in").symlink_to("state/instances")
    refused(share(tmp_path / "missing"), NotFound, "directory .* does not exist")
    refused(share(tmp_path / "file"), InvalidRequest, "is not a directory")
    refused(share(tmp_path / "file" / "below"), NotFound, "does not exist")
    refused(share("usr"), InvalidRequest, "not an absolute path")
    refused(share("/usr/../etc"), InvalidRequest, "not an absolute path")
    refused(share(tmp_path / "a,b"), InvalidRequest, "commas")
    refused(share(tmp_path / "a\\b"), InvalidRequest, "backslashes")
    refused(share(tmp_path / "state" / "instances"), Conflict, "belongs to cowshed", tmp_path / "state")
    refused(share(tmp_path / "way-in"), Conflict, "belongs to cowshed", tmp_path / "state")
    check.check([share(tmp_path)], private=tmp_path / "state")  # a home with cowshed's directory in it


def test_a_directory_that_nobody_may_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check.os, "access", lambda path, mode: False)
    refused(share(tmp_path), PermissionDenied, "no permission to read")


@pytest.mark.parametrize("tag", ["", "x" * 37, "ä" * 19, "two words", "line\n", "bell\a", "\udcff"])
def test_a_tag_that_cannot_be(tag: str) -> None:
    refused(share(tag=tag), InvalidRequest, "the tag")


def test_two_of_a_tag_or_of_a_directory() -> None:
    with pytest.raises(NameTaken, match="tag data"):
        check.check([share(), share("/etc", id="2")], private=PRIVATE)
    with pytest.raises(NameTaken, match="share 1"):
        check.check([share(), share(tag="other", read_only=True)], private=PRIVATE)


def test_what_comes_from_elsewhere() -> None:
    nfs = ShareProtocol.NFS
    check.check([share("server.example:/a b/c"[:16], protocol=nfs)], private=PRIVATE)
    check.check([share("[2001:db8::1]:/export", protocol=nfs)], private=PRIVATE)
    for source in ("server", "/export", "-o:/export", "server:/a,exec", "server:/a b", "server:/../etc"):
        refused(share(source, protocol=nfs), InvalidRequest, "not an NFS export")
    refused(share("mon:/vol", protocol=ShareProtocol.CEPHFS), UnsupportedOperation, "Ceph")
    refused(share(id="../x"), InvalidRequest, "cannot name a share")


# --- as they are remembered -------------------------------------------------------------------


def test_the_record_has_all_but_the_status(tmp_path: Path) -> None:
    kept = [share(read_only=True, status=ShareStatus.ACTIVE), share("server:/e", "two", id="2", protocol="nfs")]
    place = tmp_path / "instances" / UUID
    place.mkdir(parents=True)
    assert record.load(place) == ()
    record.save(place, kept)
    assert record.load(place) == (replace(kept[0], status=ShareStatus.INACTIVE), kept[1])
    record.save(place, [])
    assert not list(place.iterdir())


@pytest.mark.parametrize("text", ["", "[]", '{"version": 99, "shares": []}', '{"version": 1, "shares": [{"id": 1}]}'])
def test_a_record_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / record.FILE).write_text(text)
    with pytest.raises(DataCorrupt) as caught:
        record.load(tmp_path)
    assert f"of instance {tmp_path.name}" in str(caught.value.hint)


# --- the driver, before it does anything ------------------------------------------------------


@pytest.fixture
def driver(tmp_path: Path) -> LibvirtDriver:
    return LibvirtDriver(config=Config(host=HostSection(uri="qemu:///session", state=str(tmp_path / "state"))))


def test_shares_of_an_instance_that_is_not_there_yet(driver: LibvirtDriver) -> None:
    with pytest.raises(NotFound, match="directory"):
        driver.give_shares(None, INSTANCE, [share("/nonexistent")])
    assert not driver.rooms.expected_shares
    driver.give_shares(None, INSTANCE, [share(status=ShareStatus.ERROR)])
    assert driver.rooms.expected_shares == {UUID: (share(),)}
    with pytest.raises(InstanceNotFound):
        driver.mount_share(None, INSTANCE, share())
    assert driver.shares(INSTANCE) == ()
    assert not driver.is_share_mounted(None, INSTANCE, share())


@pytest.mark.parametrize("damaged", ["", '{"version": 99, "shares": []}'])
def test_a_damaged_record_holds_what_its_domain_has_and_no_other(
    driver: LibvirtDriver, monkeypatch: pytest.MonkeyPatch, damaged: str
) -> None:
    """It may name the shares that its guest has; those of all others are unmounted when nobody has them any more."""
    rooms, other = driver.rooms, "22222222-2222-3333-4444-555555555555"
    of_damaged, of_sound, of_nobody = (
        share(f"server:/{word}", word, id=word, protocol=ShareProtocol.NFS) for word in ("damaged", "sound", "nobody")
    )
    domain = f"<domain><devices><filesystem><alias name='{of_damaged.alias}'/></filesystem></devices></domain>"
    guests = {UUID: SimpleNamespace(xml=lambda: domain)}
    monkeypatch.setitem(rooms.__dict__, "hypervisor", SimpleNamespace(find=guests.get, session=True))
    for uuid in (UUID, other):
        (rooms.instances / uuid).mkdir(parents=True)
    record.save(rooms.instances / other, [of_sound])
    (rooms.instances / UUID / record.FILE).write_text(damaged)
    for one in (of_damaged, of_sound, of_nobody):
        (rooms.shares / one.id).mkdir(parents=True)
    unmounted: list[str] = []
    monkeypatch.setattr(mounts, "below", lambda place: sorted(place.iterdir()))
    monkeypatch.setattr(mounts, "unmount", lambda target: unmounted.append(target.name))
    steps.unmount_unused(rooms)
    assert unmounted == ["nobody"]
    assert [steps.used(rooms, one) for one in (of_damaged, of_sound, of_nobody)] == [True, True, False]
    assert driver.umount_share(None, replace(INSTANCE, uuid=other), of_sound)
    assert "sound" in unmounted
    del guests[UUID]
    steps.unmount_unused(rooms)
    assert "damaged" in unmounted


def test_without_virtiofsd(driver: LibvirtDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtiofsd, "find", lambda: None)
    with pytest.raises(ToolMissing, match="virtiofsd") as caught:
        driver.give_shares(None, INSTANCE, [share()])
    assert "qemu-system-common" in str(caught.value.hint)
    assert not driver.rooms.expected_shares


def test_an_ordinary_user_needs_subordinate_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    numbers = tmp_path / "subuid"
    monkeypatch.setattr(virtiofsd.os, "geteuid", lambda: 65534)
    assert "newuidmap" in virtiofsd.unable([numbers]) or "give none" in virtiofsd.unable([numbers])
    monkeypatch.setattr(run, "find", lambda tool: f"/usr/bin/{tool}")
    numbers.write_text("somebody:100000:65536\n")
    assert "user nobody" in virtiofsd.unable([numbers])
    assert "--add-subuids" in virtiofsd.remedy()
    for line in ("nobody:100000:65536", "65534:100000:65536"):
        numbers.write_text(f"{line}\n")
        assert virtiofsd.unable([numbers]) == ""
    monkeypatch.setattr(virtiofsd, "unable", lambda: "no numbers")
    with pytest.raises(UnsupportedOperation, match="no numbers"):
        virtiofsd.check(tmp_path / "socket")


def test_a_socket_that_would_be_too_long(monkeypatch: pytest.MonkeyPatch, driver: LibvirtDriver) -> None:
    monkeypatch.setattr(virtiofsd, "find", lambda: "/usr/lib/qemu/virtiofsd")
    monkeypatch.setattr(virtiofsd, "unable", lambda: "")
    monkeypatch.setenv("XDG_RUNTIME_DIR", f"/tmp/{'x' * 100}")
    with pytest.raises(InvalidRequest, match="too long"):
        driver.give_shares(None, INSTANCE, [share()])


def test_read_only_through_the_systems_libvirt_needs_root(
    driver: LibvirtDriver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(virtiofsd, "find", lambda: "/usr/lib/qemu/virtiofsd")
    monkeypatch.setattr(driver.rooms.hypervisor, "session", False)
    monkeypatch.setattr(steps.os, "geteuid", lambda: 1000)
    with pytest.raises(UnsupportedOperation, match="only root"):
        driver.give_shares(None, INSTANCE, [share(read_only=True)])
    driver.give_shares(None, INSTANCE, [share()])


def test_an_export_needs_the_client(driver: LibvirtDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtiofsd, "find", lambda: "/usr/lib/qemu/virtiofsd")
    monkeypatch.setattr(run, "find", lambda tool: None)
    with pytest.raises(ToolMissing) as caught:
        driver.give_shares(None, INSTANCE, [share("server:/e", protocol=ShareProtocol.NFS)])
    assert "nfs-common" in str(caught.value.hint)


def test_huge_pages_are_refused_with_shares_too() -> None:
    """Their memory could not be shared with virtiofsd in the way it is asked for."""
    image = Image(id="", properties={"hw_mem_page_size": "large"})
    with pytest.raises(UnsupportedOperation, match="hw_mem_page_size"):
        build([root()], dict(image.properties))


def test_mounts_are_read_from_the_kernels_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = tmp_path / "mountinfo"
    line = "36 25 0:32 / {} rw,relatime shared:1 - ext4 /dev/vda rw\n"
    table.write_text(line.format("/") + 2 * line.format("/srv/shares/a\\040b") + line.format("/srv/shares2"))
    monkeypatch.setattr(mounts, "_TABLE", table)
    assert mounts.below(Path("/srv/shares")) == [Path("/srv/shares/a b")]
    assert mounts.mounted(Path("/srv/shares2"))
    assert not mounts.mounted(Path("/srv/shares"))


def test_the_record_is_one_json_file(tmp_path: Path) -> None:
    record.save(tmp_path, [share()])
    found = json.loads((tmp_path / record.FILE).read_text())
    assert found["shares"] == [
        {"id": "1", "tag": "data", "source": "/usr", "protocol": "local", "read_only": False},
    ]
