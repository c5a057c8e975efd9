"""Nothing that is not ours is touched, nothing is lost, nothing is left, on real volumes."""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from cowshed.contract.storage import BaseContent, OpenSink
from cowshed.disks.lvm import LvmBackend, ThinLvmBackend, disk, snapshots
from cowshed.disks.lvm.disk import LvmDisk
from cowshed.errors import Busy, CowshedError, NameTaken, NoSpace, NotFound, PermissionDenied
from cowshed.model.disk import Base, DiskFormat
from cowshed.tools import block, lvm
from cowshed.units import MiB
from tests.lvm.conftest import FOREIGN, GROUP, POOL, TINY, make_backend

DATA = bytes(range(256)) * (MiB // 256)


@pytest.fixture(params=["thick", "thin"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> LvmBackend:
    return make_backend(tmp_path, thin=request.param == "thin")


@pytest.fixture
def base(tmp_path: Path) -> Base:
    path = tmp_path / "base"
    path.write_bytes(DATA + bytes(3 * MiB))
    return Base(path, DiskFormat.RAW, 4 * MiB, digest="sha256:test", image_id="test")


def new(backend: LvmBackend, name: str = "disk") -> LvmDisk:
    return backend.disk(str(uuid.uuid4()), name)


def read(disk: LvmDisk, size: int = 4 * MiB) -> bytes:
    disk.activate()
    path = disk.source().path
    assert path
    fd = block.open_device(path)
    try:
        return os.pread(fd, size, 0)
    finally:
        os.close(fd)


def write(disk: LvmDisk, data: bytes, offset: int = 0) -> None:
    disk.activate()
    path = disk.source().path
    assert path
    fd = block.open_device(path, os.O_WRONLY)
    try:
        os.pwrite(fd, data, offset)
        os.fsync(fd)
    finally:
        os.close(fd)


def unfinished(group: str = GROUP) -> list[str]:
    return [name for name in lvm.volumes(group) if name.startswith(("cowshed-new", "cowshed-moved"))]


def killed_at(
    monkeypatch: pytest.MonkeyPatch, place: object, name: str, work: Callable[[], object], *, after: bool
) -> None:
    """``work`` in a process that is killed before (or right after) it calls ``name`` of ``place``."""
    real = getattr(place, name)

    def fatal(*args: object, **options: object) -> None:
        if after:
            real(*args, **options)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            monkeypatch.setattr(place, name, fatal)
            work()
        finally:
            os._exit(1)
    _, status = os.waitpid(child, 0)
    assert os.WIFSIGNALED(status), "it was to be killed"


# --- a volume that is not ours (imagebackend D1) --------------------------------------------------


def test_a_volume_of_that_name_that_is_not_ours_is_left_as_it_is(backend: LvmBackend, base: Base) -> None:
    """Where one was in the way, the classic backend's clean-up wiped and removed it."""
    before = lvm.volume(GROUP, f"{FOREIGN}_disk")
    assert before is not None
    assert not before.ours
    theirs = backend.disk(FOREIGN, "disk")
    assert not theirs.exists()
    for create in (lambda: theirs.create(4 * MiB), lambda: theirs.create(0, base)):
        with pytest.raises(NameTaken, match=f"{FOREIGN}_disk exists already"):
            create()
    theirs.delete()
    lvm.remove(GROUP, f"{FOREIGN}_disk")
    after = lvm.volume(GROUP, f"{FOREIGN}_disk")
    assert after == before
    if os.geteuid() == 0:
        assert lvm.node(GROUP, f"{FOREIGN}_disk").read_bytes()[:13] == b"not cowshed's"
    assert unfinished() == []


def test_a_kept_base_does_not_take_a_name_over(tmp_path: Path, base: Base) -> None:
    backend = make_backend(tmp_path, thin=True)
    assert isinstance(backend, ThinLvmBackend)
    kept = backend.add_base("clone-of", "test", filled(DATA))
    with pytest.raises(NameTaken):
        backend.disk(FOREIGN, "disk").create(0, kept)
    assert not lvm.volumes(GROUP)[f"{FOREIGN}_disk"].ours
    backend.remove_base("clone-of")


def test_creating_again_after_the_base_has_gone_keeps_the_disk(backend: LvmBackend, base: Base) -> None:
    made = new(backend)
    made.create(0, base)
    write(made, b"the guest's own")
    base.path.unlink()
    with pytest.raises(NameTaken):
        made.create(0, base)
    assert read(made)[:15] == b"the guest's own"


def test_an_ordinary_user_can_touch_nothing_else() -> None:
    if os.geteuid() == 0:
        assert subprocess.run(["sudo", "-n", "true"], check=False).returncode == 0
        return
    for words in (
        ["lvremove", "-y", "-f", f"{GROUP}/{POOL}"],
        ["lvremove", "-y", "-f", f"{GROUP}/{FOREIGN}_disk"],
        ["chown", "--", "keeper", "/dev/mapper/control"],
        ["lvs"],
        ["true"],
    ):
        done = subprocess.run(["sudo", "-n", *words], check=False, capture_output=True, text=True)
        assert done.returncode == 1
        assert "password is required" in done.stderr
    with pytest.raises(PermissionDenied) as caught:
        lvm.group("other")
    assert "docs/privilege.md" in str(caught.value.hint)


def test_a_disk_that_somebody_has_open_is_not_deleted(backend: LvmBackend, base: Base) -> None:
    made = new(backend)
    made.create(0, base)
    made.activate()
    made.take("before")
    path = made.source().path
    assert path
    fd = block.open_device(path)
    try:
        with pytest.raises(Busy):
            made.delete()
        assert made.exists()
        assert [point.name for point in made.snapshots()] == ["before"]
    finally:
        os.close(fd)
    assert read(made) == DATA + bytes(3 * MiB)
    made.delete()
    assert not made.exists()


# --- no room --------------------------------------------------------------------------------------


def test_a_full_group_is_refused_with_figures(tmp_path: Path) -> None:
    backend = make_backend(tmp_path, thin=False, group=TINY)
    made = new(backend)
    with pytest.raises(NoSpace) as caught:
        made.create(512 * MiB)
    assert caught.value.needed == 512 * MiB
    assert caught.value.free == lvm.group(TINY).free
    assert not made.exists()
    assert unfinished(TINY) == []
    made.create(4 * MiB)
    with pytest.raises(NoSpace):
        made.resize(512 * MiB)
    assert made.info().virtual_size == 4 * MiB
    made.delete()
    backend.clearing.wait()


def test_what_is_known_not_to_fit_into_the_pool_is_refused_before_it_is_written(tmp_path: Path) -> None:
    backend = make_backend(tmp_path, thin=True, group=TINY)
    assert isinstance(backend, ThinLvmBackend)
    with pytest.raises(NoSpace) as caught:
        backend.add_base("large", "test", filled(DATA, pieces=100))
    assert caught.value.needed == 100 * MiB
    assert caught.value.free <= 40 * MiB
    assert unfinished(TINY) == []


def test_a_pool_that_becomes_full_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    backend = make_backend(tmp_path, thin=True, group=TINY)
    assert isinstance(backend, ThinLvmBackend)
    with pytest.raises(NoSpace, match="thin pool tiny/pool"):
        backend.add_base("large", "test", filled(DATA, pieces=60, announced=0))
    assert backend.find_base("large") is None
    path = tmp_path / "large"
    path.write_bytes(DATA * 60)
    made = new(backend)
    with pytest.raises(NoSpace, match="thin pool tiny/pool"):
        made.create(0, Base(path, DiskFormat.RAW, 60 * MiB))
    assert not made.exists()
    assert not made.directory.exists()
    assert unfinished(TINY) == []
    kept = backend.add_base("small", "test", filled(DATA))
    made.create(8 * MiB, kept)
    assert read(made, MiB) == DATA
    made.delete()
    backend.remove_base("small")


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    if os.geteuid() == 0:  # a user may not even ask about a group that the rules do not name
        backend = make_backend(tmp_path, thin=False, group="nowhere")
        for call in (backend.capacity, backend.clean, lambda: new(backend).create(MiB)):
            with pytest.raises(NotFound, match="volume group nowhere"):
                call()
    poolless = make_backend(tmp_path, thin=True, group=GROUP, thin_pool="nowhere")
    for call in (poolless.capacity, lambda: new(poolless).create(MiB)):
        with pytest.raises(NotFound, match=f"thin pool {GROUP}/nowhere"):
            call()


# --- a kill at any step ---------------------------------------------------------------------------


@pytest.mark.parametrize("after", [False, True])
def test_a_killed_create_leaves_what_the_next_sweep_takes(
    backend: LvmBackend, base: Base, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    made = new(backend)
    killed_at(monkeypatch, disk.lvm, "rename", lambda: made.create(0, base), after=after)
    if after:  # it had its name already: it is complete
        assert read(made) == DATA + bytes(3 * MiB)
        return
    assert not made.exists()
    assert unfinished()
    backend.clean()
    assert unfinished() == []
    made.create(0, base)
    assert read(made) == DATA + bytes(3 * MiB)


def test_a_sweep_leaves_alone_what_somebody_is_making(
    backend: LvmBackend, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = new(backend), lvm.rename

    def rename(group: str, old: str, name: str) -> None:
        make_backend(made.directory.parent.parent, thin=False).clean()
        real(group, old, name)

    monkeypatch.setattr(disk.lvm, "rename", rename)
    made.create(0, base)
    assert read(made) == DATA + bytes(3 * MiB)


def test_a_killed_clearing_is_finished_by_the_next_sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = make_backend(tmp_path, thin=False, clear="shred")
    made = new(backend)
    made.create(4 * MiB)
    write(made, DATA)
    killed_at(monkeypatch, block, "zero", lambda: (made.delete(), backend.clearing.wait()), after=False)
    assert not made.exists()
    (gone,) = [name for name in lvm.volumes(GROUP) if name.startswith("cowshed-gone")]
    made.create(4 * MiB)  # the name is free meanwhile
    seen: list[bytes] = []

    def remove(group: str, name: str) -> None:
        seen.append(lvm.node(group, name).read_bytes())
        lvm.remove(group, name)

    monkeypatch.setattr("cowshed.disks.lvm.clearing.lvm", _Instead(lvm, remove=remove))
    backend.clean()
    assert seen == [bytes(4 * MiB)]
    assert gone not in lvm.volumes(GROUP)
    assert made.exists()


BACK = [  # kind, has it grown since, where, what is called there, killed after it
    ("thick", False, snapshots.lvm, "merge", True),
    ("thick", False, LvmDisk, "_take", False),
    ("thick", True, snapshots.content, "copy", False),
    ("thick", True, LvmDisk, "_stand", False),
    ("thin", True, snapshots.lvm, "rename", False),
    ("thin", True, snapshots.lvm, "rename", True),
    ("thin", True, LvmDisk, "_settle", False),
]


@pytest.mark.parametrize(("kind", "grown", "place", "step", "after"), BACK)
def test_a_killed_roll_back_is_finished_before_the_disk_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, grown: bool, place: object, step: str, after: bool
) -> None:
    backend = make_backend(tmp_path, thin=kind == "thin")
    made = new(backend)
    made.create(4 * MiB)
    write(made, DATA)
    made.take("good")
    size = 6 * MiB if grown else 4 * MiB
    made.resize(size)
    write(made, b"x" * 4096)
    made.take("worse")
    killed_at(monkeypatch, place, step, lambda: made.roll_back("good"), after=after)
    backend.clean()
    assert made.exists()
    assert read(made, 6 * MiB) == DATA + bytes(3 * MiB)  # activate() has finished it
    assert made.info().virtual_size == 4 * MiB
    assert [snapshot.name for snapshot in made.snapshots()] == ["good", "worse"]
    write(made, b"y" * 4096)
    made.roll_back("good")
    assert read(made) == DATA + bytes(3 * MiB)
    made.roll_back("worse")
    assert read(made, 6 * MiB) == b"x" * 4096 + DATA[4096:] + bytes(size - MiB)
    assert unfinished() == []


# --- what is left on the storage ------------------------------------------------------------------


def test_a_new_thick_disk_never_shows_what_was_there_before(tmp_path: Path) -> None:
    backend = make_backend(tmp_path, thin=False, clear="none")
    secret = new(backend)
    secret.create(16 * MiB)
    write(secret, DATA * 16)
    secret.delete()
    blank = new(backend)
    blank.create(16 * MiB)
    assert read(blank, 16 * MiB) == bytes(16 * MiB)
    path = tmp_path / "base"
    path.write_bytes(DATA)
    blank.delete()
    from_base = new(backend)
    from_base.create(8 * MiB, Base(path, DiskFormat.RAW, MiB))
    from_base.resize(16 * MiB)
    assert read(from_base, 16 * MiB) == DATA + bytes(15 * MiB)


@pytest.mark.parametrize("clear", ["zero", "discard", "shred"])
def test_a_removed_thick_disk_is_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, clear: str) -> None:
    backend = make_backend(tmp_path, thin=False, clear=clear)
    made = new(backend)
    made.create(4 * MiB)
    write(made, DATA * 4)
    made.take("one")
    write(made, b"x" * MiB)
    seen: list[bytes] = []

    def remove(group: str, name: str) -> None:
        seen.append(lvm.node(group, name).read_bytes())
        lvm.remove(group, name)

    monkeypatch.setattr("cowshed.disks.lvm.clearing.lvm", _Instead(lvm, remove=remove))
    made.delete()
    assert not made.exists()
    backend.clearing.wait()
    assert len(seen) == 2  # the disk, and what its snapshot had kept
    if clear != "discard":  # what discarded bytes read as is up to the storage
        assert all(not any(content) for content in seen)


class _Instead:
    """A module with some of its functions replaced."""

    def __init__(self, module: object, **functions: object) -> None:
        self._module = module
        self.__dict__.update(functions)

    def __getattr__(self, name: str) -> object:
        return getattr(self._module, name)


def filled(data: bytes, *, pieces: int = 1, announced: int | None = None) -> Callable[[OpenSink], BaseContent]:
    """Fills a base with ``pieces`` times the megabyte ``data``."""

    def fill(open_sink: OpenSink) -> BaseContent:
        size = pieces * MiB
        sink = open_sink(size, size if announced is None else announced)
        try:
            for start in range(0, size, 2 * MiB):
                sink.write(start, memoryview(data * min(2, pieces)))
        finally:
            sink.close()
        return BaseContent(size, "digest", "source")

    return fill


def test_a_sparse_volume_without_a_pool_has_its_whole_size() -> None:
    name = f"cowshed-new-{uuid.uuid4().hex[:8]}"
    lvm.create_sparse(GROUP, name, 256 * MiB, 8 * MiB, lvm.tags(maker="nobody"))
    node = lvm.node(GROUP, name)
    assert block.size(node) == 256 * MiB
    with pytest.raises(NameTaken):
        lvm.create_sparse(GROUP, name, MiB, MiB, lvm.tags())
    fd = block.open_device(node, os.O_RDWR)
    try:
        os.pwrite(fd, DATA, 100 * MiB)
        os.fsync(fd)
        assert os.pread(fd, MiB, 100 * MiB) == DATA
        assert not any(os.pread(fd, MiB, 0))
    finally:
        os.close(fd)
    lvm.remove(GROUP, name)
    lvm.remove(GROUP, name)
    assert name not in lvm.volumes(GROUP)


def test_errors_are_ours(backend: LvmBackend) -> None:
    """No traceback of a tool: whatever is asked of a disk that is not there."""
    for call in (new(backend).info, new(backend).source, new(backend).activate, lambda: new(backend).take("one")):
        with pytest.raises(CowshedError):
            call()
