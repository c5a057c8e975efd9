"""virtiofsd as we start it: it listens, serves one guest, ends with it, and is nobody else's process."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed.errors import ToolFailed
from cowshed.tools import virtiofsd
from tests.other_user import beside_the_project

ROOT = Path(__file__).resolve().parent.parent.parent

# Root and every user with subordinate numbers, whom Debian's useradd gives them.
needs_numbers = pytest.mark.skipif(bool(virtiofsd.unable()), reason="needs root: or subordinate numbers for this user")
needs_virtiofsd = pytest.mark.skipif(virtiofsd.find() is None, reason="needs virtiofsd: see scripts/packages.sh test")
pytestmark = needs_virtiofsd


@pytest.fixture
def place() -> Iterator[Path]:
    """Short, for sockets; with the directory ``shared``."""
    made = Path(tempfile.mkdtemp(prefix="cowshed-fs-", dir="/tmp"))
    (made / "shared").mkdir()
    (made / "shared" / "hello").write_text("hello")
    yield made
    virtiofsd.stop(made / "one.pid")
    shutil.rmtree(made, ignore_errors=True)


def start(place: Path, **options: bool) -> None:
    virtiofsd.start(
        place / "shared", socket=place / "run" / "one", pidfile=place / "one.pid", output=place / "one.log", **options
    )


def root_of_daemon(place: Path) -> Path:
    """What its serving process has for its root: the shared directory."""
    pid = (place / "one.pid").read_text().split()[0]
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if (found := Path(f"/proc/{child}/root/hello")).exists():
                return found.parent
        time.sleep(0.02)
    raise AssertionError((place / "one.log").read_text())


@needs_numbers
@pytest.mark.parametrize("read_only", [False, True])
def test_it_serves_one_guest_and_ends_with_it(place: Path, read_only: bool) -> None:
    assert not virtiofsd.alive(place / "one.pid")
    start(place, read_only=read_only)
    assert virtiofsd.alive(place / "one.pid")
    assert (place / "run" / "one").stat().st_mode & 0o777 == 0o600
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(place / "run" / "one"))
        root = root_of_daemon(place)
        if read_only:
            assert os.statvfs(root).f_flag & os.ST_RDONLY
        else:
            (root / "new").touch()
            assert (place / "shared" / "new").exists()
    deadline = time.monotonic() + 10
    while virtiofsd.alive(place / "one.pid"):
        assert time.monotonic() < deadline, "it has not ended with its guest"
        time.sleep(0.02)
    assert not os.statvfs(place / "shared").f_flag & os.ST_RDONLY, "the host's own directory is as it was"


@needs_numbers
def test_one_that_is_there_is_replaced_and_ended(place: Path) -> None:
    start(place)
    first = (place / "one.pid").read_text()
    start(place)
    assert (place / "one.pid").read_text() != first
    assert (
        not Path(f"/proc/{first.split()[0]}/root").exists() or "Z" in Path(f"/proc/{first.split()[0]}/stat").read_text()
    )
    for _ in range(2):
        virtiofsd.stop(place / "one.pid")
    assert not (place / "one.pid").exists()


_KILLED = """
import os, signal, subprocess, sys
from pathlib import Path
from cowshed.tools import virtiofsd
place = Path(sys.argv[1])
real = subprocess.Popen
def popen(*words, **more):
    real(*words, **more)
    os.kill(os.getpid(), signal.SIGKILL)
subprocess.Popen = popen
virtiofsd.start(place / "shared", socket=place / "run" / "one", pidfile=place / "one.pid", output=place / "one.log")
"""


@needs_numbers
def test_who_is_killed_while_it_starts_leaves_one_that_can_be_ended(place: Path) -> None:
    done = subprocess.run([sys.executable, "-c", _KILLED, str(place)], timeout=60, check=False)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 10
    while b"Waiting" not in (place / "one.log").read_bytes():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert virtiofsd.alive(place / "one.pid")
    virtiofsd.stop(place / "one.pid")
    assert not virtiofsd.alive(place / "one.pid")


def test_another_process_of_its_number_is_not_touched(place: Path) -> None:
    """The file names a process that lives, but not since then, and it holds no lock."""
    with subprocess.Popen(["sleep", "60"]) as other:
        try:
            (place / "one.pid").write_text(f"{other.pid} 1\n")
            assert not virtiofsd.alive(place / "one.pid")
            virtiofsd.stop(place / "one.pid")
            assert other.poll() is None
        finally:
            other.kill()


def test_what_it_says_when_it_does_not_start(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = place / "virtiofsd"
    program.write_text("#!/bin/sh\necho 'no such luck' >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(virtiofsd, "require", lambda: str(program))
    monkeypatch.setattr(virtiofsd.os, "geteuid", lambda: 0)
    with pytest.raises(ToolFailed, match="no such luck"):
        start(place)
    assert not (place / "one.pid").exists()
    assert not (place / "run" / "one").exists()


_USER = """
import os, socket, sys
from pathlib import Path
from cowshed.tools import virtiofsd
place = Path(sys.argv[1])
assert virtiofsd.unable() == "", virtiofsd.unable()
for read_only in (False, True):
    virtiofsd.start(place / "shared", socket=place / "run" / "one", pidfile=place / "one.pid", output=place / "one.log",
                    read_only=read_only)
    with socket.socket(socket.AF_UNIX) as guest:
        guest.connect(str(place / "run" / "one"))
        guest.settimeout(0.5)
        try:
            assert guest.recv(1), (place / "one.log").read_text()
        except TimeoutError:
            assert virtiofsd.alive(place / "one.pid"), (place / "one.log").read_text()
    assert "Entry" in (place / "one.log").read_text(), (place / "one.log").read_text()
    virtiofsd.stop(place / "one.pid")
print("served")
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to become an ordinary user with subordinate numbers")
def test_an_ordinary_user_with_subordinate_numbers(place: Path) -> None:
    """His groups are such that virtiofsd of QEMU 7.2 does not start without them."""
    if shutil.which("newuidmap") is None:
        pytest.skip("needs newuidmap: see scripts/packages.sh test")
    (place / "numbers").write_text("nobody:700000:65536\n")
    shutil.chown(place, "nobody", "nogroup")
    shutil.chown(place / "shared", "nobody", "nogroup")
    script = (
        'mount --bind "$1/numbers" /etc/subuid && mount --bind "$1/numbers" /etc/subgid && exec setpriv'
        ' --reuid 65534 --regid 65534 --groups 65534,100 -- "$2" -c "$3" "$1"'
    )
    done = subprocess.run(
        beside_the_project("sh", "-c", script, "sh", str(place), sys.executable, _USER),
        cwd="/",
        env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "served\n"), done.stderr


@pytest.mark.parametrize("number", [errno.ESRCH, errno.EINVAL])
def test_a_process_that_ends_at_that_moment_has_ended(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """The kernel says invalid of a process that it is taking away just then."""

    def gone(pid: int) -> int:
        raise OSError(number, "")

    monkeypatch.setattr(virtiofsd.os, "pidfd_open", gone)
    assert virtiofsd._ended(1, 0)
    virtiofsd._signal(1, signal.SIGTERM)
