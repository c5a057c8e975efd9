"""Files that are complete or not there."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from cowshed.errors import (
    CowshedError,
    NameTaken,
    NoSpace,
    NotFound,
    OperatorError,
    PermissionDenied,
    UnsupportedOperation,
)
from cowshed.tools import filesystem, sparse
from cowshed.units import MiB

WAYS = pytest.mark.parametrize("unnamed", [True, False], ids=["unnamed", "named"])


@WAYS
def test_a_name_appears_only_with_the_whole_file(tmp_path: Path, unnamed: bool) -> None:
    target = tmp_path / "disk"
    with filesystem.publish(target, unnamed=unnamed) as new:
        os.write(new.fd, b"whole")
        assert not target.exists()
    assert target.read_bytes() == b"whole"
    assert os.listdir(tmp_path) == ["disk"]


@WAYS
def test_an_error_leaves_nothing(tmp_path: Path, unnamed: bool) -> None:
    with pytest.raises(KeyboardInterrupt), filesystem.publish(tmp_path / "disk", unnamed=unnamed) as new:
        os.write(new.fd, b"half")
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []


@WAYS
def test_what_has_the_name_already_is_left_alone(tmp_path: Path, unnamed: bool) -> None:
    (tmp_path / "disk").write_text("old")
    with pytest.raises(NameTaken), filesystem.publish(tmp_path / "disk", unnamed=unnamed):
        pass
    assert (tmp_path / "disk").read_text() == "old"
    assert os.listdir(tmp_path) == ["disk"]


@WAYS
@pytest.mark.parametrize("mode", [0o600, 0o444, 0o644])
def test_the_mode_is_the_one_asked_for_whatever_the_umask(tmp_path: Path, unnamed: bool, mode: int) -> None:
    before = os.umask(0o077)
    try:
        with filesystem.publish(tmp_path / "disk", mode=mode, unnamed=unnamed):
            pass
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "disk").stat().st_mode) == mode


@WAYS
def test_a_tool_can_write_by_path(tmp_path: Path, unnamed: bool) -> None:
    with filesystem.publish(tmp_path / "disk", unnamed=unnamed) as new:
        new.path.write_bytes(b"by a tool")
    assert (tmp_path / "disk").read_bytes() == b"by a tool"


@WAYS
def test_a_sync_that_fails_is_an_error_and_leaves_nothing(
    tmp_path: Path, unnamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OperatorError, match="Input/output error"), filesystem.publish(tmp_path / "d", unnamed=unnamed):
        pass
    assert os.listdir(tmp_path) == []


@WAYS
def test_a_name_that_cannot_be_made_durable_is_taken_back(
    tmp_path: Path, unnamed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: Path) -> None:
        assert (path / "disk").exists()
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(filesystem, "sync_directory", fail)
    with pytest.raises(OperatorError), filesystem.publish(tmp_path / "disk", unnamed=unnamed):
        pass
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.EISDIR])
def test_file_systems_without_unnamed_files_get_a_temporary_name(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., int] = os.open

    def refuse(path: object, flags: int, *rest: int, **more: int) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(number, os.strerror(number))
        return real(path, flags, *rest, **more)

    monkeypatch.setattr(os, "open", refuse)
    with filesystem.publish(tmp_path / "disk", unnamed=True) as new:
        assert new.path.parent == tmp_path
        assert new.path.name.startswith(".disk.")
    assert os.listdir(tmp_path) == ["disk"]


def test_rename_without_replacing_where_the_kernel_has_no_call_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Old:
        @staticmethod
        def renameat2(*_: object) -> int:
            filesystem.ctypes.set_errno(errno.EINVAL)
            return -1

    monkeypatch.setattr(filesystem, "_libc", Old)
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    with pytest.raises(NameTaken):
        filesystem.rename(tmp_path / "a", tmp_path / "b")
    filesystem.rename(tmp_path / "a", tmp_path / "c")
    assert sorted(os.listdir(tmp_path)) == ["b", "c"]
    (tmp_path / "d").mkdir()
    (tmp_path / "e").mkdir()
    for taken in ("b", "e"):
        with pytest.raises(NameTaken):
            filesystem.rename(tmp_path / "d", tmp_path / taken)
    filesystem.rename(tmp_path / "d", tmp_path / "f")
    assert sorted(os.listdir(tmp_path)) == ["b", "c", "e", "f"]


def test_a_commit_in_the_block_is_the_last_word(tmp_path: Path) -> None:
    with filesystem.publish(tmp_path / "disk", unnamed=True) as new:
        new.commit()
        assert (tmp_path / "disk").exists()
        (tmp_path / "disk").unlink()
    assert not (tmp_path / "disk").exists()  # it is not given its name a second time


def test_a_reader_sees_the_old_or_the_new(tmp_path: Path) -> None:
    path = tmp_path / "record"
    filesystem.write_atomically(path, b"old")
    with path.open("rb") as reader:
        filesystem.write_atomically(path, b"new" * 1000)
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new" * 1000
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["record"]


@pytest.mark.parametrize(
    ("number", "kind"),
    [
        (errno.ENOSPC, NoSpace),
        (errno.EDQUOT, NoSpace),
        (errno.EFBIG, UnsupportedOperation),
        (errno.EACCES, PermissionDenied),
        (errno.EPERM, PermissionDenied),
        (errno.EROFS, PermissionDenied),
        (errno.ENOENT, NotFound),
        (errno.EIO, OperatorError),
        (errno.EMFILE, OperatorError),
    ],
)
def test_every_error_of_the_system_becomes_one_of_ours(tmp_path: Path, number: int, kind: type[CowshedError]) -> None:
    with pytest.raises(kind) as caught, filesystem.errors_of(tmp_path / "disk", "write"):
        raise OSError(number, os.strerror(number), str(tmp_path / "disk"))
    assert str(tmp_path) in str(caught.value)
    assert isinstance(caught.value.__cause__, OSError)


def test_our_own_errors_pass(tmp_path: Path) -> None:
    with pytest.raises(NameTaken), filesystem.errors_of(tmp_path, "write"):
        raise NameTaken(kind="file", name="x")


def test_directories_are_made_with_their_parents_and_again(tmp_path: Path) -> None:
    filesystem.make_directory(tmp_path / "a" / "b")
    filesystem.make_directory(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_file_in_the_place_of_a_directory_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    with pytest.raises(OperatorError):
        filesystem.make_directory(tmp_path / "a")


def test_a_tree_goes_away_and_is_gone_again(tmp_path: Path) -> None:
    tree, trash = tmp_path / "tree", tmp_path / "tree_del"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "disk").write_text("x")
    filesystem.remove_tree(tree, trash)
    filesystem.remove_tree(tree, trash)
    assert os.listdir(tmp_path) == []


def test_what_an_interrupted_removal_left_goes_too(tmp_path: Path) -> None:
    tree, trash = tmp_path / "tree", tmp_path / "tree_del"
    for place in (tree, trash):
        place.mkdir()
        (place / "disk").write_text("x")
    filesystem.remove_tree(tree, trash)
    assert os.listdir(tmp_path) == []


def test_removal_does_not_follow_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x")
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "link").symlink_to(outside)
    filesystem.remove_tree(tree, tmp_path / "tree_del")
    assert (outside / "precious").exists()
    assert not tree.exists()


def test_only_regular_files_are_opened(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    os.close(filesystem.open_regular(tmp_path / "file"))
    (tmp_path / "link").symlink_to(tmp_path / "file")
    os.mkfifo(tmp_path / "fifo")
    before = len(os.listdir("/proc/self/fd"))
    for name in ("link", "fifo", "."):
        with pytest.raises((OSError, OperatorError)):
            filesystem.open_regular(tmp_path / name)
    assert len(os.listdir("/proc/self/fd")) == before


def test_space_is_refused_before_it_is_used(tmp_path: Path) -> None:
    filesystem.check_space(tmp_path / "not" / "there", 1)
    with pytest.raises(NoSpace) as caught:
        filesystem.check_space(tmp_path, 1 << 60)
    assert caught.value.needed == 1 << 60
    assert caught.value.hint


def test_a_sparse_copy_has_the_same_bytes_and_keeps_the_holes(tmp_path: Path) -> None:
    source = tmp_path / "source"
    with source.open("wb") as file:
        file.write(b"a" * MiB)
        file.seek(20 * MiB)
        file.write(b"b" * 5000)
        file.truncate(64 * MiB)
    seen: list[int] = []

    class Watch:
        def phase(self, name: str, total: int | None = None) -> None: ...
        def check(self) -> None: ...
        def update(self, done: int) -> None:
            seen.append(done)

    with source.open("rb") as one, (tmp_path / "copy").open("w+b") as two:
        copied = sparse.copy(one.fileno(), two.fileno(), progress=Watch())
    assert (tmp_path / "copy").read_bytes() == source.read_bytes()
    assert copied == sum(seen) < 2 * MiB
    assert sparse.allocated(tmp_path / "copy") < 2 * MiB


@pytest.mark.parametrize("direct", [True, False], ids=["direct", "page-cache"])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("size", [1, 4095, 4096, 3 * MiB + 17, 9 * MiB])
def test_every_way_of_copying(
    tmp_path: Path, direct: bool, share: bool, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "cross-device")

    if not direct:
        monkeypatch.setattr(os, "O_DIRECT", -1)
    if share:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    data = os.urandom(size)
    (tmp_path / "source").write_bytes(data)
    with (tmp_path / "source").open("rb") as one, (tmp_path / "copy").open("w+b") as two:
        assert sparse.copy(one.fileno(), two.fileno(), share=share) == len(data)
    assert (tmp_path / "copy").read_bytes() == data


def test_a_file_system_that_refuses_direct_writes_after_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real, refused = os.pwrite, 0

    def refuse(fd: int, data: bytes, offset: int) -> int:
        nonlocal refused
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_DIRECT:
            refused += 1
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, data, offset)

    monkeypatch.setattr(os, "pwrite", refuse)
    data = os.urandom(9 * MiB)
    (tmp_path / "source").write_bytes(data)
    with (tmp_path / "source").open("rb") as one, (tmp_path / "copy").open("w+b") as two:
        assert sparse.copy(one.fileno(), two.fileno()) == len(data)
    assert (tmp_path / "copy").read_bytes() == data
    assert refused <= 1


def test_a_source_that_becomes_shorter_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "source").write_bytes(bytes(8192))
    monkeypatch.setattr(sparse, "extents", lambda *_: iter([(0, 16384)]))
    with (
        (tmp_path / "source").open("rb") as one,
        (tmp_path / "copy").open("w+b") as two,
        pytest.raises(OSError, match="shorter"),
    ):
        sparse.copy(one.fileno(), two.fileno())


def test_extents_of_files_without_data(tmp_path: Path) -> None:
    with (tmp_path / "empty").open("w+b") as file:
        assert list(sparse.extents(file.fileno())) == []
        file.truncate(MiB)
        assert list(sparse.extents(file.fileno())) == []


def test_holes_are_written_only_in_the_given_part(tmp_path: Path) -> None:
    path = tmp_path / "disk"
    with path.open("w+b") as file:
        file.write(b"x" * 4096)
        file.truncate(4 * MiB)
        file.flush()
        sparse.write_holes(file.fileno(), 2 * MiB, 4 * MiB)
        os.fsync(file.fileno())
    assert path.read_bytes() == b"x" * 4096 + bytes(4 * MiB - 4096)
    assert 2 * MiB <= sparse.allocated(path) < 3 * MiB


def test_scratch_files_leave_nothing(tmp_path: Path) -> None:
    with filesystem.scratch(tmp_path, MiB) as scratch:
        scratch.path.open("r+b").close()
        assert os.fstat(scratch.fd).st_size == MiB
    assert os.listdir(tmp_path) == []
