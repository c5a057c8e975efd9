"""The Glance of the tests: one for a whole run, shared by its workers, ended with it.

``glance`` keeps images in files; ``glance_ceph`` has a store in the run's Ceph cluster as well. A start costs six
seconds; the first one on a machine installs the servers and takes a minute.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import yaml

from cowshed.config import GlanceSection
from cowshed.images.glance import GlanceService
from tests.ceph_node import OWNER, Ceph

SCRIPT = Path(__file__).resolve().parent.parent / "scripts" / "glance-server.py"
PLACE = "TESTS_GLANCE_PLACE"  # the directory of the run's servers, for its workers
POOL = "glance-images"


@dataclass(frozen=True)
class Glance:
    """A server in ``place``. Users: ``cowshed``, ``service``, ``admin``, and ``stranger`` of another project."""

    place: Path

    @cached_property
    def facts(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.place / "server.json").read_text())
        return found

    @property
    def url(self) -> str:
        return str(self.facts["url"])

    def section(self, user: str = "cowshed", **changes: Any) -> GlanceSection:
        cloud = yaml.safe_load((self.place / "clouds.yaml").read_text())["clouds"][user]["auth"]
        password = self.place / f"{user}.password"
        whole = password.with_suffix(f".{os.getpid()}")  # another worker may read it just now
        whole.write_text(cloud["password"] + "\n")
        whole.replace(password)
        settings: dict[str, Any] = {"retries": 1, "poll_interval": 0.2, "task_timeout": 60.0, "read_timeout": 20.0}
        return GlanceSection(
            auth_url=cloud["auth_url"],
            username=user,
            password_file=str(password),
            project=cloud["project_name"],
            **(settings | changes),
        )

    def log(self) -> str:
        return (self.place / "glance.log").read_text()


def start(place: Path, *options: object) -> Glance:
    done = subprocess.run(
        [str(SCRIPT), "start", str(place), "--with", os.environ[OWNER], *map(str, options)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"Glance does not start:\n{done.stdout}{done.stderr}"
    return Glance(place)


def shared(name: str, *options: object) -> Glance:
    """The run's server of this name, started by whoever needs it first."""
    place = Path(os.environ[PLACE]) / name
    place.mkdir(exist_ok=True)
    with (place.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return Glance(place) if (place / "server.json").exists() else start(place, *options)


# ----------------------------------------------------------------------------------------------------- as a pytest plugin


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        os.environ[PLACE] = tempfile.mkdtemp(prefix="cowshed-glance-", dir="/tmp")


def pytest_unconfigure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" in os.environ:
        return
    place = Path(os.environ[PLACE])
    for server in place.glob("*/server.json"):
        subprocess.run([str(SCRIPT), "stop", str(server.parent)], check=False, timeout=60)
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture(scope="session")
def glance() -> Glance:
    return shared("files")


@pytest.fixture(scope="session")
def glance_ceph(ceph: Ceph) -> Glance:
    """With the store ``ceph`` in the pool :data:`POOL`."""
    place = Path(os.environ[PLACE]) / "pool.lock"
    with place.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if POOL not in ceph.command("osd", "pool", "ls", "--format", "json"):
            ceph.make_pool(POOL)
    return shared("ceph", "--ceph-conf", ceph.conf, "--ceph-user", ceph.user, "--ceph-pool", POOL)


@pytest.fixture
def service(glance: Glance) -> Iterator[GlanceService]:
    """An ordinary user's images."""
    found = GlanceService(glance.section())
    try:
        yield found
    finally:
        found.close()
