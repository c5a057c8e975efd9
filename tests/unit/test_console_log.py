"""The serial log: its end over rotated files, and following it while it grows, rotates, begins again."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from cowshed.console import log
from cowshed.errors import DeadlineExceeded, InvalidRequest, PermissionDenied


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "console.log"


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def soon(*steps: tuple[float, object]) -> threading.Thread:
    """Makes each call after its pause, on another thread."""

    def run() -> None:
        for pause, call in steps:
            time.sleep(pause)
            assert callable(call)
            call()

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_no_log_yet_is_empty(path: Path) -> None:
    assert log.tail(path, 100) == b""


@pytest.mark.parametrize(
    ("size", "expected"),
    [(0, b""), (1, b"9"), (3, b"789"), (5, b"56789"), (9, b"123456789"), (100, b"0123456789")],
)
def test_the_end_reaches_back_into_rotated_files(path: Path, size: int, expected: bytes) -> None:
    path.write_bytes(b"789")
    Path(f"{path}.0").write_bytes(b"456")
    Path(f"{path}.1").write_bytes(b"0123")
    Path(f"{path}.3").write_bytes(b"not reached: there is no .2")
    assert log.tail(path, size) == expected


def test_a_large_log_is_read_from_its_end_only(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(1 << 40)  # sparse: reading all of it would take for ever
        file.seek(0, 2)
        file.write(b"the end")
    assert log.tail(path, 7) == b"the end"


def test_links_and_other_files_are_refused(path: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    path.symlink_to(secret)
    with pytest.raises(InvalidRequest, match="not a console log"):
        log.tail(path, 100)
    path.unlink()
    os.mkfifo(path)
    begin = time.monotonic()
    with pytest.raises(InvalidRequest, match="not a regular file"):
        log.tail(path, 100)
    with pytest.raises(InvalidRequest):
        next(log.follow(path, timeout=5))
    assert time.monotonic() - begin < 1


def test_no_permission(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)  # root may read every file
    with pytest.raises(PermissionDenied, match="no permission to read"):
        log.tail(path, 1)


def test_following_ends_with_the_text_even_when_it_comes_in_pieces(path: Path) -> None:
    path.write_bytes(b"boot\n")
    thread = soon((0.1, lambda: append(path, b"cow")), (0.1, lambda: append(path, b"shed: up\nmore\n")))
    begin = time.monotonic()
    read = b"".join(log.follow(path, until="cowshed: up", timeout=10))
    assert read == b"boot\ncowshed: up\n"  # what comes after may be a prompt that asks the terminal something
    assert time.monotonic() - begin < 2
    thread.join()


def test_the_line_with_the_text_is_whole(path: Path) -> None:
    path.write_bytes(b"boot\nup and well\nmore")
    assert b"".join(log.follow(path, until="up", timeout=10)) == b"boot\nup and well\n"
    assert b"".join(log.follow(path, until="or", timeout=10)) == b"boot\nup and well\nmore"


def test_following_a_log_that_comes_later(path: Path) -> None:
    thread = soon((0.1, lambda: append(path, b"here")))
    assert b"".join(log.follow(path, until="here", timeout=10)) == b"here"
    thread.join()


def test_following_over_a_rotation(path: Path) -> None:
    append(path, b"one ")

    def rotate() -> None:
        append(path, b"two ")
        path.rename(f"{path}.0")
        append(path, b"three")

    thread = soon((0.15, rotate))
    assert b"".join(log.follow(path, until="three", timeout=10)) == b"one two three"
    thread.join()


def test_following_a_log_that_begins_again(path: Path) -> None:
    append(path, b"first boot, a long text")
    thread = soon((0.15, lambda: path.write_bytes(b"second")))
    assert b"".join(log.follow(path, until="second", timeout=10)) == b"first boot, a long textsecond"
    thread.join()


def test_following_has_a_deadline(path: Path) -> None:
    path.write_bytes(b"nothing of interest")
    pieces = []
    with pytest.raises(DeadlineExceeded, match=r"'never' on the console did not happen within 0\.2 s"):
        pieces += list(log.follow(path, until="never", timeout=0.2))
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        for _ in log.follow(path, timeout=0.2):
            pass
    assert time.monotonic() - begin < 1


def test_following_from_the_end_on(path: Path) -> None:
    path.write_bytes(b"old up\n")
    thread = soon((0.1, lambda: append(path, b"new up\n")))
    assert b"".join(log.follow(path, until="up", timeout=10, start=7)) == b"new up\n"
    thread.join()


def test_a_text_that_is_no_text(path: Path) -> None:
    for wrong in ("", "x" * (log.WORDS + 1)):
        with pytest.raises(InvalidRequest):
            next(log.follow(path, until=wrong))


def test_descriptors_are_closed(path: Path) -> None:
    path.write_bytes(b"x")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(5):
        pieces = log.follow(path, timeout=10)
        assert next(pieces) == b"x"
        pieces.close()  # type: ignore[attr-defined]
        log.tail(path, 1)
    assert len(os.listdir("/proc/self/fd")) == before
