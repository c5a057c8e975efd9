"""What two hosts say to each other when an instance moves, over a pair of pipes."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from cowshed.errors import (
    CowshedError,
    DataCorrupt,
    DeadlineExceeded,
    DigestMismatch,
    HostUnsuitable,
    InternalError,
    InvalidState,
    NameTaken,
    NoSpace,
    ToolFailed,
)
from cowshed.migration.transport import Channel
from cowshed.tools import pipe

MiB = 1 << 20


class Pair:
    def __init__(self) -> None:
        (self.here_in, self.there_out), (self.there_in, self.here_out) = os.pipe(), os.pipe()
        self.here = Channel(self.here_in, self.here_out, silence=5)
        self.there = Channel(self.there_in, self.there_out, silence=5)

    def close(self) -> None:
        for fd in (self.here_in, self.here_out, self.there_in, self.there_out):
            try:
                os.close(fd)
            except OSError:
                continue


@pytest.fixture
def pair() -> Iterator[Pair]:
    made = Pair()
    yield made
    made.close()


def sparse(path: Path, size: int, pieces: dict[int, bytes]) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, size)
    for offset, data in pieces.items():
        os.pwrite(fd, data, offset)
    return fd


def empty(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)


def sent(pair: Pair, fd: int) -> threading.Thread:
    def send() -> None:
        with suppress(OSError, CowshedError):  # who does not receive all of it closes the channel under it
            pair.here.send(fd)

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    return thread


def test_content_comes_with_its_holes(pair: Pair, tmp_path: Path) -> None:
    pieces = {0: b"first", 40 * MiB: os.urandom(3 * MiB + 17), 99 * MiB: b"x" * 4096}
    source, target = sparse(tmp_path / "source", 100 * MiB + 5, pieces), empty(tmp_path / "target")
    pair.here.say({"before": 1})
    thread = sent(pair, source)
    assert pair.there.hear() == {"before": 1}
    pair.there.receive(target, 200 * MiB)
    thread.join(10)
    assert (tmp_path / "target").read_bytes() == (tmp_path / "source").read_bytes()
    assert os.fstat(target).st_blocks * 512 < 8 * MiB
    pair.here.say({"after": 2})
    assert pair.there.hear() == {"after": 2}


def test_an_empty_disk(pair: Pair, tmp_path: Path) -> None:
    sent(pair, sparse(tmp_path / "source", 8 * MiB, {})).join(10)
    target = empty(tmp_path / "target")
    pair.there.receive(target, 8 * MiB)
    assert os.fstat(target).st_size == 8 * MiB


def test_a_changed_byte_is_found_out(tmp_path: Path) -> None:
    pair = Pair()
    recorded = tmp_path / "wire"
    fd = os.open(recorded, os.O_RDWR | os.O_CREAT)
    Channel(pair.here_in, fd).send(sparse(tmp_path / "source", MiB, {0: b"secret" * 100}))
    data = bytearray(recorded.read_bytes())
    data[50] ^= 1
    os.write(pair.here_out, data)
    with pytest.raises(DigestMismatch):
        pair.there.receive(empty(tmp_path / "target"), MiB)
    pair.close()


def test_more_than_was_agreed_is_refused_before_it_is_written(pair: Pair, tmp_path: Path) -> None:
    sent(pair, sparse(tmp_path / "source", 4 * MiB, {3 * MiB: b"far out"}))
    target = empty(tmp_path / "target")
    with pytest.raises(DataCorrupt):
        pair.there.receive(target, 2 * MiB)
    assert os.fstat(target).st_size == 0


def test_a_side_that_hangs_up_in_the_middle(pair: Pair, tmp_path: Path) -> None:
    os.write(pair.here_out, b"\0" * 5)
    os.close(pair.here_out)
    with pytest.raises(EOFError):
        pair.there.receive(empty(tmp_path / "target"), MiB)


def test_a_side_that_says_nothing(pair: Pair) -> None:
    with pytest.raises(DeadlineExceeded):
        Channel(pair.here_in, pair.here_out, silence=0.05).hear()


def test_a_side_that_reads_nothing(pair: Pair) -> None:
    """More than the pipe takes in one piece."""
    with pytest.raises(DeadlineExceeded):
        Channel(pair.here_in, pair.here_out, silence=0.05).say({"much": "x" * MiB})


@pytest.mark.parametrize(
    "error",
    [
        NameTaken(kind="domain", name="web", hint="rename it"),
        NoSpace(place=Path("/var"), needed=5, free=3),
        InvalidState(name="web", state="stopped", action="moved"),
    ],
)
def test_an_error_there_is_the_same_error_here(pair: Pair, error: Exception) -> None:
    pair.there.fail(error)  # type: ignore[arg-type]
    with pytest.raises(type(error)) as caught:
        pair.here.hear()
    assert str(caught.value) == str(error)
    assert caught.value.hint == error.hint  # type: ignore[attr-defined]


def test_an_error_of_another_version(pair: Pair) -> None:
    pair.there.say({"error": "not-invented-yet", "text": "the moon is full"})
    with pytest.raises(InternalError, match="the moon is full"):
        pair.here.hear()


def test_what_is_not_ours(pair: Pair) -> None:
    os.write(pair.there_out, b"Welcome to host b!\n")
    with pytest.raises(DataCorrupt, match="Welcome"):
        pair.here.hear()


def test_a_program_that_ends_says_why() -> None:
    with (
        pytest.raises(ToolFailed, match="no such host") as caught,
        pipe.talking(["sh", "-c", "echo no such host >&2; exit 7"]) as (reader, writer),
    ):
        Channel(reader, writer, silence=10).hear()
    assert caught.value.status == 7


def test_which_host_is_unsuitable(pair: Pair) -> None:
    """Not this one, who hears it."""
    pair.there.fail(HostUnsuitable(reason="it is disabled", hint="cowshed host enable"))
    with pytest.raises(HostUnsuitable, match=r"^the destination cannot run the instance: it is disabled") as caught:
        pair.here.hear()
    assert caught.value.hint == "there: cowshed host enable"


def test_who_does_not_take_all_of_it_says_why(pair: Pair, tmp_path: Path) -> None:
    """A full disk, for example: the other side says so, cannot make sense of what comes then, and hangs up."""
    source = sparse(tmp_path / "source", 4 * MiB, {0: os.urandom(4 * MiB)})
    pair.there.fail(NoSpace(place="the other host", needed=2, free=1))
    os.close(pair.there_in)
    with pytest.raises(NoSpace, match="the other host"):
        pair.here.send(source)


def test_what_did_not_happen_in_time_is_not_the_program_s_fault() -> None:
    with pytest.raises(DeadlineExceeded, match="web off"), pipe.talking(["cat"]):
        raise DeadlineExceeded(what="web off", seconds=5)


def test_a_program_ends_with_the_talk() -> None:
    with pipe.talking(["sh", "-c", 'read line; echo "{\\"said\\": $line}"; cat >/dev/null']) as (reader, writer):
        channel = Channel(reader, writer, silence=10)
        channel.say({"a": 1})
        assert channel.hear() == {"said": {"a": 1}}
