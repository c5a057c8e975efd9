"""Storage for volumes, served for real: NBD by qemu-nbd, iSCSI by tgtd, loop devices."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from cowshed.units import MiB

SIZE = 16 * MiB
IQN = "iqn.2025-01.org.cowshed.test:store"
USER, PASSWORD = "chap-user", "chap-secret-0123"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def raw_file(path: Path, text: str = "", size: int = SIZE) -> Path:
    """A raw file that begins with ``text``."""
    with path.open("wb") as file:
        file.write(text.encode())
        file.truncate(size)
    path.chmod(0o666)
    return path


def text_at(path: Path, offset: int = MiB, length: int = 512) -> str:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(length).rstrip(b"\0").decode(errors="replace")


def until(condition: Callable[[], Any], what: str, timeout: float = 30) -> Any:
    deadline = time.monotonic() + timeout
    while not (found := condition()):
        assert time.monotonic() < deadline, f"{what} did not happen within {timeout} s"
        time.sleep(0.05)
    return found


def need(*tools: str) -> None:
    for tool in tools:
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}: see scripts/packages.sh test")


def end(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(10)


@contextmanager
def nbd(file: Path, *, format: str = "raw", socket_path: Path | None = None, port: int = 0) -> Iterator[int]:
    """Serves ``file`` as export ``disk`` to any number of clients, on the port that is yielded or on a socket."""
    need("qemu-nbd")
    port = port or free_port()
    where = ["-k", str(socket_path)] if socket_path else ["-b", "127.0.0.1", "-p", str(port)]
    words = ["qemu-nbd", "-f", format, "-x", "disk", "-e", "8", "--persistent", *where, str(file)]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: process.poll() is not None or _listens(port, socket_path), "qemu-nbd listening")
        assert process.poll() is None, f"{' '.join(words)} ended"
        if socket_path:
            socket_path.chmod(0o666)
        yield port
    finally:
        end(process)


def _listens(port: int, path: Path | None) -> bool:
    try:
        if path:
            with socket.socket(socket.AF_UNIX) as probe:
                probe.connect(str(path))
            return True
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    except OSError:
        return False


@dataclass(frozen=True)
class Target:
    """An iSCSI target with one LUN (1)."""

    port: int
    control: int

    def data(self, *, password: str = PASSWORD, lun: int = 1) -> dict[str, Any]:
        return {
            "target_portal": f"127.0.0.1:{self.port}",
            "target_iqn": IQN,
            "target_lun": lun,
            "auth_method": "CHAP",
            "auth_username": USER,
            "auth_password": password,
        }


@contextmanager
def iscsi(file: Path) -> Iterator[Target]:
    """A userspace target on the loopback that asks for CHAP."""
    need("tgtd", "tgtadm")
    if os.geteuid() != 0:
        pytest.skip("needs root: tgtd keeps its socket in /run")
    target = Target(free_port(), os.getpid() % 30000 + 1)
    Path("/var/run/tgtd").mkdir(exist_ok=True)
    words = ["tgtd", "-f", "-C", str(target.control), "--iscsi", f"portal=127.0.0.1:{target.port}"]
    process = subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        until(lambda: _tgtadm(target, "--op show --mode sys", check=False) == 0, "tgtd answering")
        _tgtadm(target, f"--lld iscsi --op new --mode target --tid 1 -T {IQN}")
        _tgtadm(target, f"--lld iscsi --op new --mode logicalunit --tid 1 --lun 1 -b {file}")
        _tgtadm(target, "--lld iscsi --op bind --mode target --tid 1 -I ALL")
        _tgtadm(target, f"--lld iscsi --op new --mode account --user {USER} --password {PASSWORD}")
        _tgtadm(target, f"--lld iscsi --op bind --mode account --tid 1 --user {USER}")
        yield target
    finally:
        process.kill()  # at the first signal it waits for its sessions
        process.wait(10)
        for left in Path("/var/run/tgtd").glob(f"socket.{target.control}*"):
            left.unlink(missing_ok=True)


def _tgtadm(target: Target, words: str, *, check: bool = True) -> int:
    command = ["tgtadm", "-C", str(target.control), *words.split()]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False)
    assert not check or done.returncode == 0, f"{' '.join(command)}: {done.stdout}{done.stderr}"
    return done.returncode


@contextmanager
def loop_device(file: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("needs root: a loop device")
    if not Path("/dev/loop-control").exists():
        pytest.skip("needs loop devices: no /dev/loop-control here")
    done = subprocess.run(
        ["losetup", "--find", "--show", str(file)], capture_output=True, text=True, timeout=20, check=True
    )
    device = Path(done.stdout.strip())
    try:
        yield device
    finally:
        subprocess.run(["losetup", "-d", str(device)], timeout=20, check=False)
