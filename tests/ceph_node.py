"""The Ceph cluster of the tests: one for a whole run, shared by its workers, ended with it.

A fixture of this file costs the eight seconds that a cluster needs once, and a second for a pool.
What breaks a cluster (an OSD that dies, a monitor that hangs) is done to one of its own:
:func:`other_ceph`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests import processes

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "ceph-node.sh"
PLACE = "TESTS_CEPH_PLACE"  # the directory of the run's cluster, for its workers
LOOK = 20.0  # seconds between two looks at whether the manager answers
_looked = float("-inf")
OWNER = "TESTS_CEPH_OWNER"  # the process whose end is the cluster's end


@dataclass(frozen=True)
class Ceph:
    """A cluster in ``place``; ``conf`` names its monitors and keyrings."""

    place: Path
    user: str = "admin"

    @property
    def conf(self) -> Path:
        return self.place / "ceph.conf"

    @property
    def keyring(self) -> Path:
        return self.place / "client.admin.keyring"

    @property
    def fsid(self) -> str:
        return str(self.command("fsid", "--format", "json")["fsid"])

    def command(self, *words: object) -> Any:
        """What ``ceph ...`` answers; parsed where it is JSON."""
        return _parsed(self._call("ceph", "--connect-timeout", "30", *words))

    def rbd(self, *words: object) -> Any:
        # With two threads of librados it is aborted now and then, with one it cannot unprotect: see tools/rbd/cluster.py.
        threads = () if "unprotect" in words or "purge" in words else ("--librados-thread-count", "1")
        return _parsed(self._call("rbd", *threads, *words))

    def _call(self, program: str, *words: object) -> str:
        command = [program, "-c", self.conf, *words]
        done = subprocess.run(
            [str(word) for word in command],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
        return done.stdout

    def make_pool(self, name: str = "") -> str:
        name = name or f"pool-{uuid.uuid4().hex[:8]}"
        self.command("osd", "pool", "create", name, 8)
        self.rbd("pool", "init", name)
        return name

    def make_user(self, name: str, **caps: str) -> Path:
        """The keyring of a new user ``name`` with ``mon="..."``, ``osd="..."``, ``mgr="..."``."""
        path = self.place / f"client.{name}.keyring"
        words = [word for daemon, cap in caps.items() for word in (daemon, cap)]
        path.write_text(self._call("ceph", "auth", "get-or-create", f"client.{name}", *words))
        return path

    def images(self, pool: str) -> list[str]:
        return sorted(self.rbd("ls", "--format", "json", pool))

    def manager_answers(self) -> bool:
        """Within a few seconds. It hangs for good at times: a module that waits for a full pool holds up all others."""
        command = ["ceph", "-c", str(self.conf), "--connect-timeout", "10", "rbd", "task", "list"]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=10, check=False)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def revive_manager(self) -> None:
        """A new one in place of one that does not answer; of several callers at once, one does it."""
        with (self.place / "manager.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if self.manager_answers():
                return
            self.kill("mgr.x")
            self.command("mgr", "fail", "x")  # the monitor would wait an hour for it
            started = ["ceph-mgr", "-i", "x", "-c", str(self.conf)]
            subprocess.run(started, stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=True)
            deadline = time.monotonic() + 60
            while not self.manager_answers():
                assert time.monotonic() < deadline, "the new Ceph manager does not answer"
                time.sleep(0.5)

    def kill(self, daemon: str, how: signal.Signals = signal.SIGKILL) -> None:
        """``daemon`` is mon.a, mgr.x or osd.0; it is gone, or with SIGSTOP does nothing any more, when this returns."""
        pid = int((self.place / f"{daemon}.pid").read_text())
        if how == signal.SIGKILL:
            processes.end(pid, self.place, how)
            return
        os.kill(pid, how)
        # One thread has to get a core before all of them stop; on a busy machine others answer meanwhile.
        while how == signal.SIGSTOP and not all(_stopped(task) for task in Path(f"/proc/{pid}/task").iterdir()):
            time.sleep(0.01)


def _stopped(task: Path) -> bool:
    return (task / "stat").read_text().rpartition(")")[2].split()[0] == "T"


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def start(place: Path, *options: object) -> Ceph:
    done = subprocess.run(
        ["bash", str(SCRIPT), "start", str(place), "--with", os.environ[OWNER], *map(str, options)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"the Ceph cluster does not start:\n{done.stdout}{done.stderr}"
    return Ceph(place)


def stop(place: Path) -> None:
    subprocess.run(["bash", str(SCRIPT), "stop", str(place)], check=False, timeout=60)
    shutil.rmtree(place, ignore_errors=True)


# ----------------------------------------------------------------------------------------------------- as a pytest plugin


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        # Short: the path of a unix socket has room for about 100 characters.
        os.environ[PLACE] = tempfile.mkdtemp(prefix="cowshed-ceph-", dir="/tmp")
        os.environ[OWNER] = str(os.getpid())


def pytest_unconfigure(config: pytest.Config) -> None:
    if os.environ.get(OWNER) == str(os.getpid()):
        stop(Path(os.environ[PLACE]))


def _need_ceph() -> None:
    for tool in ("ceph-mon", "ceph-mgr", "ceph-osd", "ceph", "rbd"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool}: see scripts/packages.sh ceph")


@pytest.fixture(scope="session")
def ceph() -> Ceph:
    """The run's cluster. Its user is ``admin``; :meth:`Ceph.make_pool` is a pool of one's own."""
    _need_ceph()
    place = Path(os.environ[PLACE])
    with (place / "start.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return start(place)  # which does nothing where it is up


@pytest.fixture(autouse=True)
def _manager(request: pytest.FixtureRequest) -> None:
    """Looked at now and then, for the tests that use the run's cluster."""
    global _looked
    if not {"ceph", "rbd_pool"} & set(request.fixturenames) or time.monotonic() < _looked + LOOK:
        return
    ceph: Ceph = request.getfixturevalue("ceph")
    if not ceph.manager_answers():
        ceph.revive_manager()
    _looked = time.monotonic()


@pytest.fixture(scope="session")
def rbd_pool(ceph: Ceph) -> str:
    """A pool for all tests of this worker."""
    return ceph.make_pool()


@pytest.fixture
def other_ceph() -> Iterator[Callable[..., Ceph]]:
    """Makes clusters of one's own, to be broken: ``other_ceph("--ipv6")``."""
    _need_ceph()
    places: list[Path] = []

    def make(*options: object) -> Ceph:
        places.append(Path(tempfile.mkdtemp(prefix="cowshed-ceph-", dir="/tmp")))
        return start(places[-1], *options)

    try:
        yield make
    finally:
        for place in places:
            stop(place)
