"""The classic image API with real processes: killed callers, shared directories, and what qemu-img says of the result."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

import pytest

from cowshed.config import Config, HostSection
from cowshed.imagebackend import Backend
from cowshed.units import MiB
from tests.conftest import LoopFs

BOTH = pytest.mark.parametrize("kind", ["flat", "qcow2"])

CALLER = """
import pathlib, sys, time
from cowshed.config import Config, HostSection
from cowshed.imagebackend import Backend, info

state, kind, server, what = sys.argv[1:]
backend = Backend(True, config=Config(host=HostSection(state=state)))
disk = backend.by_name(server, "disk", kind)

def fetch(*, target, **named):
    with open(state + "/fetches", "a") as log:
        log.write(target + "\\n")
    with open(target, "wb") as file:
        file.write(b"content!" * 65536)
        file.flush()
        if what == "hang":
            print("fetching", flush=True)
            time.sleep(60)

if what == "record":
    for number in range(25):
        path = pathlib.Path(disk.path)
        info.record(path.with_name("disk.info"), path.with_name(f"{kind}-{number}"), "raw")
else:
    disk.cache(fetch, "base", 1048576, image_id="one")
"""


def call(state: Path, kind: str, server: str, what: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", CALLER, str(state), kind, server, what]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True)


def end(process: subprocess.Popen[str]) -> int:
    with process:
        process.communicate(timeout=60)
    return process.returncode


@BOTH
def test_a_killed_fetch_leaves_nothing_that_looks_complete(tmp_path: Path, kind: str) -> None:
    server = str(uuid.uuid4())
    process = call(tmp_path, kind, server, "hang")
    assert process.stdout is not None
    assert process.stdout.readline() == "fetching\n"
    os.kill(process.pid, signal.SIGKILL)
    assert end(process) == -signal.SIGKILL
    disk = Backend(True, config=Config(host=HostSection(state=str(tmp_path)))).by_name(server, "disk", kind)
    assert not disk.exists()
    assert not (tmp_path / "cache" / "base").exists()
    assert end(call(tmp_path, kind, server, "make")) == 0
    assert disk.get_disk_size(disk.path) == MiB
    assert not list((tmp_path / "cache").glob(".*base*"))


@BOTH
def test_processes_share_one_fetch(tmp_path: Path, kind: str) -> None:
    started = [call(tmp_path, kind, str(uuid.uuid4()), "make") for _ in range(6)]
    assert [end(process) for process in started] == [0] * 6
    assert len((tmp_path / "fetches").read_text().splitlines()) == 1


def test_processes_that_share_a_directory_lose_no_record(tmp_path: Path) -> None:
    server = str(uuid.uuid4())
    started = [call(tmp_path, kind, server, "record") for kind in ("flat", "qcow2")]
    assert [end(process) for process in started] == [0, 0]
    found = json.loads((tmp_path / "instances" / server / "disk.info").read_text())
    assert {Path(path).name for path in found} == {f"{kind}-{n}" for kind in ("flat", "qcow2") for n in range(25)}


@BOTH
@pytest.mark.parametrize("format", ["raw", "qcow2"])
def test_qemu_reads_what_we_write(tmp_path: Path, kind: str, format: str) -> None:
    server = str(uuid.uuid4())
    assert end(call(tmp_path, kind, server, "make")) == 0
    disk = Backend(True, config=Config(host=HostSection(state=str(tmp_path)))).by_name(server, "disk", kind)
    disk.resize_image(3 * MiB)
    if kind == "qcow2":
        _qemu_img("check", "-q", "-f", "qcow2", disk.path)
        _qemu_img("compare", "-q", "-f", "qcow2", "-F", "raw", disk.path, str(tmp_path / "cache" / "base"))
    disk.snapshot_extract(str(tmp_path / "out"), format)
    assert disk.get_disk_size(str(tmp_path / "out")) == 3 * MiB
    _qemu_img("compare", "-q", "-f", disk.driver_format, "-F", format, disk.path, str(tmp_path / "out"))


def _qemu_img(*words: str) -> None:
    done = subprocess.run(["qemu-img", *words], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_flat_disks_are_made_at_the_same_time(tmp_path: Path) -> None:
    """No lock is held while a base is copied, so one slow disk does not delay another."""
    from cowshed.tools import locks

    assert end(call(tmp_path, "flat", str(uuid.uuid4()), "make")) == 0
    started = time.monotonic()
    with locks.lock(tmp_path / "cache" / "locks" / "base", timeout=5, what="the base"):
        assert end(call(tmp_path, "flat", str(uuid.uuid4()), "make")) == 0
    assert time.monotonic() - started < 20


def test_preallocation_is_tried_where_the_disk_is(tmp_path: Path, loopfs: LoopFs) -> None:
    from cowshed.config import DisksSection

    for place in (loopfs("ext4", size="64M"), loopfs("btrfs", size="128M")):
        config = Config(host=HostSection(state=str(place)), disks=DisksSection(preallocation="falloc"))
        disk = Backend(False, config=config).by_name(str(uuid.uuid4()), "disk", "raw")

        def fetch(*, target: str, **_: object) -> None:
            Path(target).write_bytes(b"x" * 4096)

        disk.cache(fetch, "base", 2 * MiB, image_id="one")
        assert disk._can_fallocate()
        assert os.stat(disk.path).st_blocks * 512 >= 2 * MiB
