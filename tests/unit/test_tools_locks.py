"""Locks between threads (the same ones hold between processes, see tests/host)."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from cowshed.errors import Busy, NotFound
from cowshed.tools import locks

Take = Callable[..., AbstractContextManager[object]]


def _take_file(path: Path, **more: object) -> AbstractContextManager[object]:
    return locks.lock(path / "lock", **more)  # type: ignore[arg-type]


KINDS = pytest.mark.parametrize("take", [_take_file, locks.directory], ids=["file", "directory"])


@KINDS
def test_one_at_a_time(tmp_path: Path, take: Take) -> None:
    inside, most = 0, 0

    def work() -> None:
        nonlocal inside, most
        for _ in range(5):
            with take(tmp_path, timeout=30):
                inside += 1
                most = max(most, inside)
                time.sleep(0.001)
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


@KINDS
def test_who_waits_too_long_hears_who_holds_it(tmp_path: Path, take: Take) -> None:
    with take(tmp_path), pytest.raises(Busy) as caught, take(tmp_path, timeout=0.05, what="the thing"):
        pass
    assert caught.value.what == "the thing"
    assert f"process {os.getpid()}" in str(caught.value)
    with take(tmp_path, timeout=0):  # and it can be had afterwards
        pass


@KINDS
def test_an_error_releases_it(tmp_path: Path, take: Take) -> None:
    with pytest.raises(ValueError), take(tmp_path):
        raise ValueError
    with take(tmp_path, timeout=0):
        pass


def test_readers_share_and_keep_a_writer_out(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with (
        locks.lock(path, shared=True),
        locks.lock(path, shared=True, timeout=0),
        pytest.raises(Busy),
        locks.lock(path, timeout=0),
    ):
        pass


@KINDS
def test_a_lock_that_was_removed_meanwhile_is_not_the_lock(tmp_path: Path, take: Take) -> None:
    place = tmp_path / "place"
    place.mkdir()
    got: list[object] = []

    def wait() -> None:
        try:
            with take(place, timeout=30):
                got.append("lock")
        except NotFound as error:
            got.append(error)

    with take(place):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.05)
        shutil.rmtree(place)
    thread.join()
    assert isinstance(got[0], NotFound)
    assert not place.exists()  # waiting brought nothing back


def test_a_lock_is_removed_when_nobody_holds_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    locks.remove(path)  # there is none
    for shared in (False, True):
        with locks.lock(path, shared=shared):
            locks.remove(path)
            with pytest.raises(Busy), locks.lock(path, timeout=0):
                pass
    before = len(os.listdir("/proc/self/fd"))
    locks.remove(path)
    assert not path.exists()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_file_that_no_name_leads_to_is_not_the_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An NFS client that has not heard of the removal still finds the old file by the name."""
    path = tmp_path / "lock"
    path.touch()
    old, real, flock, removed = os.stat(path), os.stat, fcntl.flock, []

    def removed_by_another_host(fd: int, kind: int) -> None:
        flock(fd, kind)
        if not removed:
            removed.append(path.unlink())

    def cached(where: Any, **more: Any) -> os.stat_result:
        return real(where, **more) if os.path.lexists(where) else old

    monkeypatch.setattr(fcntl, "flock", removed_by_another_host)
    monkeypatch.setattr(os, "stat", cached)
    with locks.lock(path, timeout=5):
        monkeypatch.undo()
        with pytest.raises(Busy), locks.lock(path, timeout=0):
            pass


def test_a_directory_that_cannot_be_locked_gets_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = fcntl.flock

    def nfs(fd: int, kind: int) -> None:
        if fcntl.fcntl(fd, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY:
            raise OSError(errno.EBADF, "Bad file descriptor")
        real(fd, kind)

    monkeypatch.setattr(fcntl, "flock", nfs)
    before = len(os.listdir("/proc/self/fd"))
    with locks.directory(tmp_path), pytest.raises(Busy), locks.directory(tmp_path, timeout=0):
        pass
    assert len(os.listdir("/proc/self/fd")) == before
    assert os.listdir(tmp_path) == [".lock"]


def test_several_are_taken_in_order(tmp_path: Path) -> None:
    one, two = tmp_path / "1", tmp_path / "2"
    done = []

    def work(paths: list[Path]) -> None:
        for _ in range(20):
            with locks.several(paths, timeout=30):
                done.append(1)

    threads = [threading.Thread(target=work, args=(paths,)) for paths in ([one, two, one], [two, one])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 40


@KINDS
def test_nothing_stays_open(tmp_path: Path, take: Take) -> None:
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        with take(tmp_path), pytest.raises(Busy), take(tmp_path, timeout=0):
            pass
    assert len(os.listdir("/proc/self/fd")) == before
