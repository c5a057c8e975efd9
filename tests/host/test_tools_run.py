"""Processes: what a tool gets, what it may do, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from cowshed.errors import DeadlineExceeded, ToolFailed, ToolMissing
from cowshed.tools.limits import Limits
from cowshed.tools.run import OUTPUT, environment, find, run
from cowshed.units import GiB, MiB


def test_output_and_status() -> None:
    done = run(["sh", "-c", "echo out; echo err >&2; exit 3"], check=False)
    assert (done.status, done.stdout, done.stderr) == (3, b"out\n", b"err\n")


def test_a_failure_says_command_status_and_last_words() -> None:
    with pytest.raises(ToolFailed) as caught:
        run(["sh", "-c", "echo one >&2; echo 'two words' >&2; exit 7"])
    assert caught.value.status == 7
    assert caught.value.output == "one | two words"
    assert "'echo one >&2; echo '\"'\"'two words'\"'\"' >&2; exit 7'" in caught.value.command


def test_a_tool_that_a_signal_ended() -> None:
    with pytest.raises(ToolFailed) as caught:
        run(["sh", "-c", "kill -9 $$"])
    assert caught.value.status == -signal.SIGKILL
    assert "it said nothing" in str(caught.value)


def test_a_missing_tool_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cowshed.tools.run.PATH", "/nowhere")
    with pytest.raises(ToolMissing) as caught:
        run(["qemu-img", "--version"])
    assert caught.value.tool == "qemu-img"
    assert "qemu-utils" in str(caught.value.hint)


def test_tools_of_the_current_directory_are_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("qemu-img", "planted"):
        (tmp_path / name).write_text("#!/bin/sh\necho planted\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    assert find("planted") is None
    for places in ("", ":", ".", "relative"):
        monkeypatch.setenv("COWSHED_PATH", places)
        assert find("planted") is None
        assert find("qemu-img") != "qemu-img"
    monkeypatch.setenv("COWSHED_PATH", str(tmp_path))
    assert run(["qemu-img"]).stdout == b"planted\n"


def test_no_shell_no_terminal_no_surprises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LD_PRELOAD_X", "1")
    monkeypatch.setenv("http_proxy", "http://x")
    monkeypatch.setenv("LC_ALL", "de_DE")
    text = run(["env"]).stdout.decode()
    assert "LC_ALL=C.UTF-8" in text
    assert "MALLOC_ARENA_MAX=1" in text
    assert "LD_PRELOAD_X" not in text
    assert "http_proxy" not in text
    assert set(environment({"A": "b"})) >= {"A", "PATH"}
    assert run(["cat"]).stdout == b""  # standard input is empty
    assert run(["echo", "$HOME; rm -rf *"]).stdout == b"$HOME; rm -rf *\n"


def test_input_reaches_the_tool() -> None:
    data = os.urandom(3 * MiB // 4)
    assert run(["cat"], input=data).stdout == data


def test_a_tool_that_does_not_read_its_input() -> None:
    assert run(["true"], input=bytes(4 * MiB)).status == 0
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded):
        run(["sleep", "30"], input=bytes(4 * MiB), timeout=0.3)
    assert time.monotonic() - begin < 5


def test_the_end_of_what_a_tool_prints_is_kept() -> None:
    done = run(["sh", "-c", "head -c 20000000 /dev/zero | tr '\\0' x; echo end"])
    assert len(done.stdout) <= 3 * OUTPUT
    assert done.stdout.endswith(b"xend\n")


def test_a_deadline_ends_the_tool_and_all_it_started(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    with pytest.raises(DeadlineExceeded) as caught:
        run(["sh", "-c", f"echo $$ >> {pids}; sleep 77 & echo $! >> {pids}; wait"], timeout=0.5)
    assert caught.value.seconds == 0.5
    assert "setpriv" not in str(caught.value)
    for pid in map(int, pids.read_text().split()):
        _wait_gone(pid)


def test_a_deadline_may_be_weeks_away() -> None:
    """What a disk of tens of TiB is given; poll(2) counts milliseconds in 32 bits."""
    assert run(["true"], timeout=5e6).status == 0


def test_a_tool_is_seen_to_end_at_once() -> None:
    best = min(_seconds(["sleep", "0.06"]) for _ in range(5))
    assert best < 0.1


def _seconds(command: list[str]) -> float:
    begin = time.monotonic()
    run(command)
    return time.monotonic() - begin


def test_limits_hold() -> None:
    limits = Limits(cpu=7, memory=1 * GiB, file_size=MiB, files=20)
    done = run(["sh", "-c", "ulimit -t; ulimit -v; ulimit -n; ulimit -c; ulimit -f"], limits=limits)
    assert done.stdout.split() == [b"7", b"1048576", b"20", b"0", b"2048"]


def test_a_tool_that_writes_too_much_is_stopped(tmp_path: Path) -> None:
    with pytest.raises(ToolFailed):
        run(["dd", "if=/dev/zero", f"of={tmp_path}/big", "bs=1M", "count=8"], limits=Limits(file_size=2 * MiB))
    assert (tmp_path / "big").stat().st_size == 2 * MiB


def test_files_of_ours_are_not_inherited(tmp_path: Path) -> None:
    with (tmp_path / "secret").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        assert b"secret" not in run(["sh", "-c", "ls -l /proc/$$/fd"]).stdout


SCRIPT = """
import sys
from cowshed.tools.run import run
print("ready", flush=True)
run(["sh", "-c", "echo $$ > {pid}; sleep 77; :"])
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_tool_dies_with_us(tmp_path: Path, how: signal.Signals) -> None:
    pid = tmp_path / "pid"
    ours = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(pid=pid)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert ours.stdout is not None
    with ours.stdout:
        ours.stdout.readline()
    deadline = time.monotonic() + 20
    while not (pid.exists() and pid.read_text().strip()):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    ours.send_signal(how)
    ours.wait(20)
    _wait_gone(int(pid.read_text()))


def test_many_at_once() -> None:
    results: list[bytes] = []
    threads = [
        threading.Thread(target=lambda number=number: results.append(run(["echo", str(number)]).stdout))
        for number in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(map(int, results)) == list(range(12))


def _wait_gone(pid: int) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return
        if state == "Z":
            return
        time.sleep(0.01)
    pytest.fail(f"process {pid} is still there")
