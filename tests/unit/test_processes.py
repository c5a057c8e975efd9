"""What the tests end by number is theirs, and nobody else's whose number it has become."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import processes


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"], env={"PLACE": str(tmp_path), "PATH": "/usr/bin:/bin"}) as process:
        until = time.monotonic() + 10
        while b"sleep" not in Path(f"/proc/{process.pid}/cmdline").read_bytes():
            assert time.monotonic() < until
        yield process
        process.kill()


def test_a_process_of_the_place_is_gone_when_this_returns(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    processes.end(sleeper.pid, tmp_path)
    assert sleeper.poll() == -signal.SIGTERM


def test_somebody_else_is_left_alone(sleeper: subprocess.Popen[bytes], tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "stale.pid").write_text(f"{sleeper.pid}\n")
    (other / "empty.pid").touch()
    processes.end(sleeper.pid, other)
    processes.end_all(other)
    assert sleeper.poll() is None
    (tmp_path / "guest.pid").write_text(f"{sleeper.pid} 12345\n")
    processes.end_all(tmp_path)
    assert sleeper.poll() == -signal.SIGTERM


def test_what_does_not_listen_is_killed(tmp_path: Path) -> None:
    command = ["sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        process.stdout.readline()
        (tmp_path / "guest.pid").write_text(f"{process.pid}\n")
        with pytest.raises(AssertionError, match="does not end"):
            processes.end(process.pid, tmp_path, patience=0.1)
        processes.end_all(tmp_path, patience=0.1)
        assert process.poll() == -signal.SIGKILL


def test_the_number_of_a_thread_is_nobody() -> None:
    """A signal to it would reach us: the number of a daemon that is gone may be that of a thread of ours."""
    told: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: told.append(number))
    done = threading.Event()
    thread = threading.Thread(target=done.wait)
    thread.start()
    try:
        assert thread.native_id
        processes.end(thread.native_id, Path("/"))  # every environment names it
        assert told == []
    finally:
        done.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)
