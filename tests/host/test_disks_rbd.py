"""Disks in a real Ceph cluster: bases once for all hosts, clones, snapshots, images made in place, and full pools."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import RbdSection
from cowshed.contract.callbacks import SILENT
from cowshed.contract.storage import BaseContent, FillBase, OpenSink
from cowshed.disks import manifest
from cowshed.disks.rbd import RbdBackend, RbdDisk
from cowshed.disks.rbd_bases import BASE, PART, copied
from cowshed.errors import (
    Busy,
    DeadlineExceeded,
    DigestMismatch,
    DiskNotFound,
    DiskTooSmall,
    InvalidRequest,
    NameTaken,
    NoSpace,
    NotFound,
    PermissionDenied,
    SnapshotNotFound,
    ToolFailed,
    UnsupportedOperation,
)
from cowshed.model.disk import Base, DiskFormat
from cowshed.model.image import Location
from cowshed.tools.rbd import Pool, errors, header, lock, parse_url
from tests.ceph_node import Ceph

pytestmark = pytest.mark.timeout(180)

MiB = 1 << 20
SIZE = 8 * MiB


def content(seed: int = 1) -> bytes:
    return bytes([seed]) * MiB + bytes(3 * MiB) + bytes([seed + 1]) * (2 * MiB) + bytes(2 * MiB)


def base_file(path: Path, seed: int = 1, digest: str = "") -> Base:
    path.write_bytes(content(seed))
    return Base(path, DiskFormat.RAW, SIZE, digest=digest or f"sha256:{uuid.uuid4().hex}", image_id="image")


def filling(path: Path, calls: list[int] | None = None) -> FillBase:
    def fill(open_sink: OpenSink) -> BaseContent:
        if calls is not None:
            calls.append(os.getpid())
        return copied(path, SIZE, open_sink, SILENT)

    return fill


def read(disk: RbdDisk, place: Path) -> bytes:
    target = place / f"read-{uuid.uuid4()}"
    disk.extract(target, DiskFormat.RAW)
    data = target.read_bytes()
    target.unlink()
    return data


def write(disk: RbdDisk, data: bytes, offset: int = 0) -> None:
    spec = disk.location().split("/")
    with Pool(disk._place.cluster, spec[0]).open(spec[-1]) as image:
        image.write(data, offset)


class Place:
    """A pool of its own, with an instances' directory."""

    def __init__(self, ceph: Ceph, pool: str, folder: Path) -> None:
        self.ceph, self.name, self.folder = ceph, pool, folder
        self.backend = self.open()
        self.pool = self.backend.pool

    def open(self, **section: object) -> RbdBackend:
        facts = {"pool": self.name, "ceph_conf": str(self.ceph.conf), **section}
        return RbdBackend(self.folder / "instances", RbdSection(**facts))  # type: ignore[arg-type]

    def disk(self, name: str = "disk") -> RbdDisk:
        return self.backend.disk(str(uuid.uuid4()), name)

    def everything(self) -> list[str]:
        """Names of all images, their snapshots, and what is in the trash."""
        import rbd

        found = []
        with self.pool.ioctx() as ioctx:
            for name in rbd.RBD().list(ioctx):
                with rbd.Image(ioctx, name, read_only=True) as image:
                    found += [name, *(f"{name}@{snapshot['name']}" for snapshot in image.list_snaps())]
            return found + [entry["name"] for entry in rbd.RBD().trash_list(ioctx)]


def _emptied(pool: Pool) -> None:
    for image in pool.images():
        pool.remove(image)
    pool.purge()


@pytest.fixture(scope="module")
def module_pool(ceph: Ceph) -> str:
    return ceph.make_pool()


@pytest.fixture(scope="module")
def module_image_pool(ceph: Ceph) -> str:
    return ceph.make_pool()


@pytest.fixture
def place(ceph: Ceph, module_pool: str, module_image_pool: str, tmp_path: Path) -> Place:
    """In a pool without images."""
    found = Place(ceph, module_pool, tmp_path)
    # Uploads of the test before may still stand on its disks, which are in the trash then.
    _emptied(Pool(found.pool.cluster, module_image_pool))
    _emptied(found.pool)
    return found


@pytest.fixture
def images(ceph: Ceph, place: Place, module_image_pool: str) -> tuple[Pool, Location]:
    """The pool of an image service with one image."""
    pool = Pool(place.pool.cluster, module_image_pool)
    pool.create("image", SIZE)
    with pool.open("image") as image:
        image.write(content(5), 0)
    pool.take("image", "snap")
    pool.protect("image", "snap")
    return pool, Location(f"rbd://{ceph.fsid}/{pool.name}/image/snap")


# --- bases --------------------------------------------------------------------------------------------


def test_a_base_is_imported_once_and_cloned_ever_after(place: Place, tmp_path: Path) -> None:
    calls: list[int] = []
    path = base_file(tmp_path / "base").path
    base = place.backend.add_base("one", "image", filling(path, calls))
    assert place.backend.add_base("one", "image", filling(path, calls)) == base == place.backend.find_base("one")
    disks = [place.disk() for _ in range(3)]
    for disk in disks:
        disk.create(SIZE, base)
    assert calls == [os.getpid()]
    assert [disk.info().allocated for disk in disks] == [0, 0, 0]
    assert all(read(disk, tmp_path) == content() for disk in disks)
    (kept,) = place.backend.bases()
    assert (kept.name, kept.base, kept.users, kept.allocated) == ("one", base, 3, 8 * MiB)


def test_a_base_in_a_local_file_is_kept_in_the_pool_too(place: Place, tmp_path: Path) -> None:
    base = base_file(tmp_path / "base")
    place.disk().create(0, base)
    base.path.unlink()  # the cache may forget it now
    disk = place.disk()
    disk.create(0, base)
    assert read(disk, tmp_path) == content()


def test_what_lies_in_the_cache_is_checked_on_its_way(place: Place, tmp_path: Path) -> None:
    base = base_file(tmp_path / "base", digest="crc32-2m:" + "0" * 64)
    disk = place.disk()
    with pytest.raises(DigestMismatch):
        disk.create(0, base)
    assert place.everything() == []


def test_hosts_that_want_one_base_make_one_import(place: Place, tmp_path: Path) -> None:
    """Four processes, each with two threads."""
    path, marks = base_file(tmp_path / "base").path, tmp_path / "marks"
    marks.mkdir()

    def fill(open_sink: OpenSink) -> BaseContent:
        (marks / str(uuid.uuid4())).touch()
        return copied(path, SIZE, open_sink, SILENT)

    def host() -> None:
        errors: list[BaseException] = []

        def work() -> None:
            try:
                place.backend.add_base("shared", "image", fill)
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]

    pids = [_fork(host) for _ in range(4)]
    assert [_wait(pid) for pid in pids] == [0] * 4
    assert len(list(marks.iterdir())) == 1
    assert [base.name for base in place.backend.bases()] == ["shared"]


def test_an_import_that_fails_leaves_nothing(place: Place, tmp_path: Path) -> None:
    def fill(open_sink: OpenSink) -> BaseContent:
        sink = open_sink(SIZE, SIZE)
        sink.write(0, memoryview(b"x" * MiB))
        raise ToolFailed(command="reading", status=1, output="the first error")

    with pytest.raises(ToolFailed, match="the first error"):
        place.backend.add_base("broken", "image", fill)
    assert place.everything() == []
    place.backend.add_base("broken", "image", filling(base_file(tmp_path / "base").path))


def test_a_killed_import_is_cleaned_by_a_later_one(place: Place, tmp_path: Path) -> None:
    path = base_file(tmp_path / "base").path

    def killed() -> None:
        lock.LIFE = 2.0

        def fill(open_sink: OpenSink) -> BaseContent:
            open_sink(SIZE, SIZE).write(0, memoryview(b"x" * MiB))
            os.kill(os.getpid(), signal.SIGKILL)
            raise AssertionError

        place.backend.add_base("killed", "image", fill)

    assert _wait(_fork(killed)) == -signal.SIGKILL
    assert place.backend.find_base("killed") is None
    assert [name.partition("_")[0] + "_" for name in place.everything()] == [PART]
    base = place.backend.add_base("killed", "image", filling(path))
    disk = place.disk()
    disk.create(0, base)
    assert read(disk, tmp_path) == content()
    _until_clean(place, [f"{disk.instance}_disk", f"{BASE}killed", f"{BASE}killed@base"])


def test_clean_leaves_what_somebody_is_filling(place: Place, tmp_path: Path) -> None:
    def fill(open_sink: OpenSink) -> BaseContent:
        filled = copied(base_file(tmp_path / "base").path, SIZE, open_sink, SILENT)
        place.backend.clean()
        return filled

    place.backend.add_base("busy", "image", fill)
    assert place.backend.find_base("busy")


def test_a_base_that_disks_stand_on_stays(place: Place, tmp_path: Path) -> None:
    base = place.backend.add_base("used", "image", filling(base_file(tmp_path / "base").path))
    disk = place.disk()
    disk.create(0, base)
    with pytest.raises(Busy, match=disk.instance):
        place.backend.remove_base("used")
    assert place.backend.find_base("used") == base
    disk.delete()
    place.backend.remove_base("used")
    place.backend.remove_base("used")
    assert place.everything() == []


def test_a_base_that_is_removed_under_us(place: Place, tmp_path: Path) -> None:
    base = place.backend.add_base("gone", "image", filling(base_file(tmp_path / "base").path))
    place.backend.remove_base("gone")
    disk = place.disk()
    with pytest.raises(NotFound, match="gone"):
        disk.create(0, base)
    assert not disk.exists()
    assert not disk.directory.exists()
    assert place.everything() == []


def test_an_image_with_the_name_of_a_base_is_not_taken_for_one(place: Place, tmp_path: Path) -> None:
    place.pool.create(f"{BASE}theirs", MiB)
    with pytest.raises(Exception, match="nothing says what it is"):
        place.backend.add_base("theirs", "image", filling(base_file(tmp_path / "base").path))
    assert place.everything() == [f"{BASE}theirs"]
    assert place.backend.bases() == []


# --- disks ---------------------------------------------------------------------------------------------


def test_an_image_of_that_name_that_is_not_ours_is_left_alone(place: Place, tmp_path: Path) -> None:
    disk = place.disk()
    theirs = f"{disk.instance}_disk"
    place.pool.create(theirs, 3 * MiB)
    with pytest.raises(NameTaken):
        disk.create(SIZE)
    with pytest.raises(NameTaken):
        disk.create(0, base_file(tmp_path / "base"))
    disk.delete()
    assert place.pool.size(theirs) == 3 * MiB
    assert list(place.backend.disks(disk.instance)) == []


def test_a_pool_that_is_configured_anew_breaks_no_disk(place: Place, tmp_path: Path) -> None:
    disk = place.disk()
    disk.create(0, base_file(tmp_path / "base"))
    other = place.open(pool=place.ceph.make_pool())
    again = other.disk(disk.instance, "disk")
    assert again.exists()
    assert read(again, tmp_path) == content()
    assert again.source().name == f"{place.name}/{disk.instance}_disk"
    other.disk(disk.instance, "disk.eph0").create(MiB)
    assert {found.name for found in other.disks(disk.instance)} == {"disk", "disk.eph0"}
    again.delete()
    assert not place.pool.exists(f"{disk.instance}_disk")


@pytest.mark.parametrize(("of", "step"), [(Pool, "grow_new"), (header, "set_size")])
def test_a_crash_before_a_clone_has_grown_is_put_right(place: Place, tmp_path: Path, of: Any, step: str) -> None:
    base = place.backend.add_base("grown", "image", filling(base_file(tmp_path / "base").path))
    disk = place.disk()
    _killed_before(place, step, lambda: disk.create(2 * SIZE, base), of=of)
    assert place.pool.size(f"{disk.instance}_disk") == SIZE
    assert disk.info().virtual_size == 2 * SIZE
    assert read(disk, tmp_path) == content() + bytes(SIZE)
    disk.activate()
    assert place.pool.size(f"{disk.instance}_disk") == 2 * SIZE
    _check_grown(place.pool, f"{disk.instance}_disk", 2 * SIZE)


def _check_grown(pool: Pool, image: str, size: int) -> None:
    """Whoever opens it finds it as if librbd had grown it."""
    with pool.open(image) as opened:
        assert (opened.size(), opened.flags()) == (size, 0)  # no flag that says that the map of objects is wrong
        assert opened.read(0, SIZE) == content()
        opened.write(b"end", size - 3)
        assert opened.read(size - 4, 4) == b"\0end"
        mapped = bool(opened.features() & 8)
    if mapped:
        command = ["rbd", "-c", pool.cluster.source, "object-map", "check", str(pool.spec(image))]
        checked = subprocess.run(command, check=False, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stderr
    with pool.open(image, read_only=True) as opened:
        assert opened.flags() == 0


@pytest.mark.parametrize(
    ("features", "stripes", "opened"),
    [(1, 0, False), (1 | 4 | 8 | 16 | 32, 0, False), (1 | 4 | 64, 0, True), (1 | 2 | 4 | 8 | 16, 4, True)],
    ids=["plain", "default", "journal", "striped"],
)
def test_a_clone_grows_whatever_its_features_are(
    place: Place, monkeypatch: pytest.MonkeyPatch, features: int, stripes: int, opened: bool
) -> None:
    """What takes more than a new size in the header is left to librbd."""
    pool, size = place.pool, 100 * MiB + 512
    _, rbd = errors.bindings()
    with pool.ioctx() as ioctx:
        words = {"stripe_unit": MiB, "stripe_count": stripes} if stripes else {}
        rbd.RBD().create(ioctx, "parent", SIZE, old_format=False, features=features, **words)
        with rbd.Image(ioctx, "parent") as parent:
            parent.write(content(), 0)
            parent.create_snap("s")
        rbd.RBD().clone(ioctx, "parent", "s", ioctx, "grown", features=features, **words)
        with rbd.Image(ioctx, "grown", read_only=True) as image:
            assert image.features() & ~256 == features
    real, resized = Pool.resize, []
    monkeypatch.setattr(Pool, "resize", lambda self, image, size: (resized.append(image), real(self, image, size)))
    pool.grow_new("grown", size)
    assert resized == (["grown"] if opened else [])
    _check_grown(pool, "grown", size)


@pytest.mark.parametrize(
    ("step", "after"),
    [("create", False), ("note", False), ("take", False), ("rename", False), ("clone", False), ("clone", True)],
)
def test_killed_at_any_step_there_is_all_of_a_disk_or_nothing(
    place: Place, tmp_path: Path, step: str, after: bool
) -> None:
    base = base_file(tmp_path / "base")
    disk = place.disk()
    _killed_before(place, step, lambda: disk.create(0, base), after=after)
    if not disk.exists():
        disk.create(0, base)
    assert read(disk, tmp_path) == content()
    name = BASE + "file-" + base.digest.replace(":", "-")
    _until_clean(place, [f"{disk.instance}_disk", name, f"{name}@base"])


def _late(place: Place, monkeypatch: pytest.MonkeyPatch, error: BaseException, *, happens: bool) -> list[Any]:
    """The next rename ends in ``error``, though it has happened in the cluster, or comes when it is called."""
    real, left = Pool.rename, list[Any]()

    def rename(self: Pool, *names: str) -> None:
        monkeypatch.setattr(Pool, "rename", real)
        left.append(lambda: real(self, *names))
        if happens:
            left[0]()
        raise error

    monkeypatch.setattr(Pool, "rename", rename)
    return left


def test_a_rename_that_happened_though_its_answer_was_late(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk, path = place.disk(), tmp_path / "new"
    path.write_bytes(content())
    _late(place, monkeypatch, DeadlineExceeded(what="an answer", seconds=1), happens=True)
    disk.import_file(path)
    assert read(disk, tmp_path) == content()
    disk.delete()
    assert place.everything() == []


@pytest.mark.parametrize(
    ("error", "happens"), [(DeadlineExceeded(what="an answer", seconds=1), False), (KeyboardInterrupt(), True)]
)
def test_what_gets_its_name_after_it_was_given_up_is_removed_with_the_instance(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, error: BaseException, happens: bool
) -> None:
    """Its line in the manifest stays where the cluster may have it, or get it yet."""
    disk, path = place.disk(), tmp_path / "new"
    path.write_bytes(content())
    real = Pool.remove
    monkeypatch.setattr(Pool, "remove", lambda *_, **__: None)  # the part's, which is about to get its name
    left = _late(place, monkeypatch, error, happens=happens)
    with pytest.raises(type(error)):
        disk.import_file(path)
    if not happens:
        left[0]()
    monkeypatch.setattr(Pool, "remove", real)
    disk.delete()
    assert place.everything() == []
    assert manifest.find(disk.directory, "disk") is None


def test_a_name_that_somebody_else_has_meanwhile_leaves_no_line(
    place: Place, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk, path = place.disk(), tmp_path / "new"
    path.write_bytes(content())
    _late(place, monkeypatch, NameTaken(kind="image", name="x"), happens=True)
    with pytest.raises(NameTaken):
        disk.import_file(path)
    assert manifest.find(disk.directory, "disk") is None


def test_the_source_names_monitors_user_and_secret(place: Place) -> None:
    disk = place.disk()
    disk.create(MiB)
    source = disk.source()
    assert (source.protocol, source.name) == ("rbd", f"{place.name}/{disk.instance}_disk")
    assert source.hosts == place.pool.cluster.monitors()
    assert source.auth_user == "admin"
    assert uuid.UUID(source.secret_uuid)
    assert place.open(secret_uuid="11111111-2222-4333-8444-555555555555").disk(
        disk.instance, "disk"
    ).source().secret_uuid == "11111111-2222-4333-8444-555555555555"  # fmt: skip
    found = place.backend.secret(source.secret_uuid)
    assert found
    assert place.backend.secret("11111111-2222-4333-8444-555555555555") is None


def test_a_disk_that_a_guest_has_open_is_not_removed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = place.disk()
    disk.create(MiB)
    pool, image = disk._where()
    disk.take("before")
    with pool.open(image) as guest:
        guest.write(b"x", 0)
        with pytest.raises(Busy):
            disk.roll_back("before")
        with pytest.raises(Busy):
            pool.remove(image, patience=0)
        assert [found.name for found in disk.snapshots()] == ["before"]
        disk.resize(2 * MiB)
        assert guest.size() == 2 * MiB
    disk.delete()
    assert place.everything() == []


def test_a_client_that_died_is_waited_for(place: Place) -> None:
    disk = place.disk()
    disk.create(MiB)
    pool, image = disk._where()

    def dies() -> None:
        with pool.open(image) as opened:
            opened.write(b"x", 0)
            os.kill(os.getpid(), signal.SIGKILL)

    assert _wait(_fork(dies)) == -signal.SIGKILL
    disk.delete()
    assert place.everything() == []


# --- clones of what an image service has ------------------------------------------------------------------


def test_a_disk_stands_on_an_image_of_the_image_service(
    place: Place, images: tuple[Pool, Location], tmp_path: Path
) -> None:
    _, location = images
    assert place.backend.cloneable(location, DiskFormat.RAW)
    disk = place.disk()
    disk.clone(location, 2 * SIZE)
    assert read(disk, tmp_path) == content(5) + bytes(SIZE)
    assert disk.info().allocated == 0
    with pytest.raises(DiskTooSmall):
        place.disk().clone(location, MiB)
    with pytest.raises(NameTaken):
        disk.clone(location)
    disk.flatten()
    assert place.pool.parent(f"{disk.instance}_disk") is None
    disk.flatten()
    assert read(disk, tmp_path) == content(5) + bytes(SIZE)


def test_a_disk_is_flattened_by_the_cluster(place: Place, images: tuple[Pool, Location], tmp_path: Path) -> None:
    disk = place.disk()
    disk.clone(images[1])
    disk.flatten(background=True)
    _until(lambda: place.pool.parent(f"{disk.instance}_disk") is None)
    disk.flatten(background=True)
    assert read(disk, tmp_path) == content(5)


def test_locations_that_no_disk_can_stand_on(place: Place, images: tuple[Pool, Location]) -> None:
    pool, location = images
    fsid = place.ceph.fsid
    assert not place.backend.cloneable(location, DiskFormat.QCOW2)
    other = Location(f"rbd://{uuid.uuid4()}/{pool.name}/image/snap")
    for url in (
        other.url,
        f"rbd://{fsid}/{pool.name}/image/other",
        f"rbd://{fsid}/{pool.name}/other/snap",
        f"rbd://{fsid}/nowhere/image/snap",
        f"rbd://{fsid}/{pool.name}/snap",
        "file:///image",
    ):
        assert not place.backend.cloneable(Location(url), DiskFormat.RAW)
    disk = place.disk()
    with pytest.raises(InvalidRequest, match="another Ceph cluster"):
        disk.clone(other)
    with pytest.raises(NotFound):
        disk.clone(Location(f"rbd://{fsid}/{pool.name}/other/snap"))
    assert not disk.directory.exists()
    place.ceph.make_user("blind", mon="profile rbd", osd=f"profile rbd pool={place.name}")
    assert not place.open(user="blind").cloneable(location, DiskFormat.RAW)


# --- snapshots -----------------------------------------------------------------------------------------------


def test_snapshots(place: Place, tmp_path: Path) -> None:
    disk = place.disk()
    disk.create(0, base_file(tmp_path / "base"))
    before = time.time()
    disk.take("one")
    write(disk, b"\7" * MiB)
    disk.resize(SIZE + MiB)
    disk.take("two")
    first, second = disk.snapshots()
    assert (first.name, first.virtual_size, second.name, second.virtual_size) == ("one", SIZE, "two", SIZE + MiB)
    assert abs(first.created - before) < 120
    disk.roll_back("one")
    assert read(disk, tmp_path) == content()
    assert disk.info().virtual_size == SIZE
    disk.roll_back("two")
    assert read(disk, tmp_path)[:MiB] == b"\7" * MiB
    assert disk.info().virtual_size == SIZE + MiB
    disk.remove("one")
    assert [found.name for found in disk.snapshots()] == ["two"]
    disk.delete()
    assert not disk.exists()


def test_snapshots_that_cannot_be(place: Place) -> None:
    disk = place.disk()
    with pytest.raises(DiskNotFound):
        disk.take("one")
    disk.create(MiB)
    disk.take("one")
    with pytest.raises(NameTaken):
        disk.take("one")
    for name in ("", "-x", "a/b", "a@b", "x" * 65, "a\n"):
        with pytest.raises(InvalidRequest):
            disk.take(name)
    for call in (disk.roll_back, disk.remove):
        with pytest.raises(SnapshotNotFound):
            call("two")


def test_a_snapshot_that_clones_stand_on(place: Place, tmp_path: Path) -> None:
    disk = place.disk()
    disk.create(0, base_file(tmp_path / "base"))
    disk.take("one")
    image = f"{disk.instance}_disk"
    place.pool.clone(place.pool, image, "one", "theirs")
    with pytest.raises(Busy, match="theirs"):
        disk.remove("one")
    assert [found.name for found in disk.snapshots()] == ["one"]
    disk.delete()  # into the trash: the clone goes on reading it
    assert not disk.exists()
    assert list(place.backend.disks(disk.instance)) == []
    with place.pool.open("theirs", read_only=True) as clone:
        assert clone.read(0, SIZE) == content()
    place.backend.clean()
    place.pool.remove("theirs")
    place.backend.clean()
    assert [name for name in place.everything() if not name.startswith(BASE)] == []


def test_protected_snapshots_go_with_the_disk(place: Place) -> None:
    disk = place.disk()
    disk.create(MiB)
    disk.take("one")
    place.pool.protect(f"{disk.instance}_disk", "one")
    disk.remove("one")
    disk.take("two")
    place.pool.protect(f"{disk.instance}_disk", "two")
    disk.delete()
    assert place.everything() == []


# --- a snapshot becomes an image ------------------------------------------------------------------------------


def test_a_disk_becomes_an_image_in_place(place: Place, images: tuple[Pool, Location], tmp_path: Path) -> None:
    pool, location = images
    disk = place.disk()
    disk.clone(location)
    write(disk, b"\7" * MiB, 4 * MiB)
    expected = read(disk, tmp_path)
    made = disk.upload("new-image")
    assert made.url == f"rbd://{place.ceph.fsid}/{pool.name}/new-image/snap"
    write(disk, b"\1" * MiB)
    with pool.open("new-image", "snap", read_only=True) as image:
        assert image.read(0, SIZE) == expected
        assert image.is_protected_snap("snap")
    assert disk.snapshots() == []
    again = place.disk()
    again.clone(made)
    assert read(again, tmp_path) == expected
    disk.delete()
    _until(lambda: pool.parent("new-image") is None)
    with pool.open("new-image", "snap", read_only=True) as image:
        assert image.read(0, SIZE) == expected
    again.delete()
    disk.discard(made)
    disk.discard(made)
    assert pool.images() == ("image",)
    place.backend.clean()
    assert place.everything() == []


def test_an_image_lies_beside_the_one_it_came_from(place: Place, images: tuple[Pool, Location], tmp_path: Path) -> None:
    pool, location = images
    disk = place.disk()
    disk.create(0, base_file(tmp_path / "base"))
    with pytest.raises(UnsupportedOperation):
        disk.upload("new-image")
    elsewhere = [Location("file:///x"), Location(f"rbd://{uuid.uuid4()}/p/i/s")]
    with pytest.raises(UnsupportedOperation):
        disk.upload("new-image", near=elsewhere)
    assert parse_url(disk.upload("new-image", near=[*elsewhere, location]).url).spec.pool == pool.name
    with pytest.raises(NameTaken):
        disk.upload("new-image", near=[location])
    assert pool.images() == ("image", "new-image")
    with pytest.raises(InvalidRequest):
        disk.upload("../x", near=[location])


@pytest.mark.parametrize("step", ["take", "clone", "take-2", "protect", "flatten_later", "remove_snapshot"])
def test_an_upload_that_fails_leaves_nothing_and_says_why(
    place: Place, images: tuple[Pool, Location], monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """The first error is the one that is raised, also when the clean-up meets another."""
    pool, location = images
    disk = place.disk()
    disk.clone(location)
    method, _, number = step.partition("-")
    real, calls = getattr(Pool, method), []

    def failing(self: Pool, *arguments: object, **words: object) -> object:
        calls.append(arguments)
        if len(calls) == int(number or 1):
            raise NoSpace(place="here", needed="more", free="nothing")
        return real(self, *arguments, **words)

    monkeypatch.setattr(Pool, method, failing)
    with pytest.raises(NoSpace, match="here"):
        disk.upload("new-image")
    assert pool.images() == ("image",)
    assert disk.snapshots() == []
    assert place.everything() == [f"{disk.instance}_disk"]


def test_a_user_who_may_not_write_to_the_image_pool(place: Place, images: tuple[Pool, Location]) -> None:
    pool, location = images
    osd = f"profile rbd pool={place.name}, profile rbd-read-only pool={pool.name}"
    place.ceph.make_user("vms", mon="profile rbd", osd=osd, mgr="profile rbd")
    disk = place.open(user="vms").disk(str(uuid.uuid4()), "disk")
    disk.clone(location)
    with pytest.raises(PermissionDenied):
        disk.upload("new-image")
    assert pool.images() == ("image",)
    assert place.everything() == [f"{disk.instance}_disk"]


def test_without_a_manager_the_image_is_parted_at_once(
    place: Place, images: tuple[Pool, Location], monkeypatch: pytest.MonkeyPatch
) -> None:
    pool, location = images
    osd = f"profile rbd pool={place.name}, profile rbd pool={pool.name}"
    place.ceph.make_user("unmanaged", mon="profile rbd", osd=osd)
    disk = place.open(user="unmanaged").disk(str(uuid.uuid4()), "disk")
    disk.clone(location)
    disk.upload("new-image")
    assert pool.parent("new-image") is None
    assert place.everything() == [f"{disk.instance}_disk"]


def test_the_old_format_of_clones(place: Place, images: tuple[Pool, Location], tmp_path: Path) -> None:
    """Which protects snapshots, and which ceph.conf may ask for."""
    conf = tmp_path / "ceph.conf"
    conf.write_text(place.ceph.conf.read_text().replace("[client]", "[client]\nrbd default clone format = 1"))
    backend = place.open(ceph_conf=str(conf))
    base = backend.add_base("old", "image", filling(base_file(tmp_path / "base").path))
    disk = backend.disk(str(uuid.uuid4()), "disk")
    disk.create(0, base)
    with place.pool.open(f"{BASE}old", "base", read_only=True) as image:
        assert image.is_protected_snap("base")
    pool, location = images
    disk.upload("new-image", near=[location])
    with pool.open("new-image", "snap", read_only=True) as image:
        assert image.read(0, SIZE) == content()
    assert pool.parent("new-image") is None
    with pytest.raises(Busy):
        backend.remove_base("old")
    disk.delete()
    backend.remove_base("old")
    assert place.everything() == []


# --- full pools ------------------------------------------------------------------------------------------------


@pytest.fixture
def small(ceph: Ceph, tmp_path: Path) -> Place:
    """A pool that :func:`_fill_up` may fill."""
    return Place(ceph, ceph.make_pool(), tmp_path)


def _fill_up(place: Place) -> None:
    """The quota is below what is there, and every OSD has heard of it."""
    place.pool.cluster.rados().wait_for_latest_osdmap()
    place.ceph.command("osd", "pool", "set-quota", place.name, "max_bytes", 4096)
    _until(lambda: "full_quota" in _flags(place))
    place.pool.cluster.rados().wait_for_latest_osdmap()


def _flags(place: Place) -> str:
    pools = place.ceph.command("osd", "dump", "--format", "json")["pools"]
    return str(next(pool["flags_names"] for pool in pools if pool["pool_name"] == place.name))


def test_a_pool_that_is_full_in_the_middle_of_an_import(small: Place, tmp_path: Path) -> None:
    path = base_file(tmp_path / "base").path
    first = small.disk()
    first.create(0, base_file(tmp_path / "other", 7))

    def fill(open_sink: OpenSink) -> BaseContent:
        sink = open_sink(SIZE, SIZE)
        data = path.read_bytes()
        sink.write(0, memoryview(data)[: 2 * MiB])
        _fill_up(small)
        sink.write(4 * MiB, memoryview(data)[4 * MiB : 6 * MiB])
        sink.close()
        return BaseContent(SIZE, sink.digest())

    before = small.everything()
    with pytest.raises(NoSpace, match=small.name):
        small.backend.add_base("full", "image", fill)
    assert small.everything() == before
    assert read(first, tmp_path) == content(7)


def test_a_pool_that_is_full_before_a_clone(small: Place, tmp_path: Path) -> None:
    base = small.backend.add_base("one", "image", filling(base_file(tmp_path / "base").path))
    first = small.disk()
    first.create(0, base)
    _fill_up(small)
    disk = small.disk()
    for call in (lambda: disk.create(0, base), lambda: disk.create(2 * SIZE, base), lambda: disk.create(MiB)):
        with pytest.raises(NoSpace):
            call()
        assert not disk.exists()
        assert not disk.directory.exists()
    first.delete()  # which makes room, and needs none
    assert not first.exists()
    assert [name for name in small.everything() if not name.startswith(BASE)] == []


def test_a_base_goes_from_a_pool_that_is_full(small: Place, tmp_path: Path) -> None:
    base = small.backend.add_base("one", "image", filling(base_file(tmp_path / "base").path))
    disk = small.disk()
    disk.create(0, base)
    _fill_up(small)
    with pytest.raises(Busy):
        small.backend.remove_base("one")
    assert [kept.users for kept in small.backend.bases()] == [1]
    disk.delete()
    small.backend.remove_base("one")
    assert small.everything() == []


def test_what_does_not_fit_is_refused_before_it_is_begun(small: Place, tmp_path: Path) -> None:
    small.ceph.command("osd", "pool", "set-quota", small.name, "max_bytes", 2 * MiB)
    _until(lambda: small.backend.capacity().total <= 2 * MiB)
    with pytest.raises(NoSpace, match="is needed"):
        small.disk().create(0, base_file(tmp_path / "base"))
    assert small.everything() == []


# --- tools -------------------------------------------------------------------------------------------------------


def _until(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


def _until_clean(place: Place, expected: list[str]) -> None:
    """A client that was killed is remembered for a while; what it left goes after that."""

    def clean() -> bool:
        place.backend.clean()
        return sorted(place.everything()) == sorted(expected)

    _until(clean)


def _fork(work: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
        os._exit(0)
    except BaseException as error:
        os.write(2, f"{error!r}\n".encode())
        os._exit(1)


def _wait(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _killed_before(place: Place, step: str, work: Callable[[], object], *, after: bool = False, of: Any = Pool) -> None:
    """A child process does ``work`` and dies before (or after) the first call of ``step``."""
    real = getattr(of, step)

    def dying(*arguments: object, **words: object) -> None:
        if after:
            real(*arguments, **words)
        os.kill(os.getpid(), signal.SIGKILL)

    def child() -> None:
        lock.LIFE = 2.0
        setattr(of, step, dying)
        work()

    assert _wait(_fork(child)) == -signal.SIGKILL
