"""A worker that crashes costs one test, and the run goes on to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

GROUP = '@pytest.mark.xdist_group("one")'

CONFTEST = """
from tests import ci_run

def pytest_configure(config):
    config.pluginmanager.register(ci_run.Crashes())
    config.pluginmanager.register(ci_run.FailuresAtOnce(config))
"""

# The worker that is to get test 6 is gone when it does, and nobody knows yet.
GONE = """
from xdist.workermanage import WorkerController

send = WorkerController.send_runtest_some
gone = []

def kill_first(self, indices):
    if 6 in indices and not gone:
        gone.append(self)
        worker = self.gateway._io.popen
        worker.kill()
        worker.wait()
    send(self, indices)

WorkerController.send_runtest_some = kill_first
"""

TESTS = """
import os
import pytest

{group}
@pytest.mark.parametrize("number", range(12))
def test_one(number):
    if number in {crashing}:
        os.abort()
    assert number != 7, "seven is said"
"""


def run(place: Path, group: str, crashing: tuple[int, ...], conftest: str = CONFTEST) -> str:
    (place / "conftest.py").write_text(conftest)
    (place / "test_crash.py").write_text(TESTS.format(crashing=crashing, group=group))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-n", "2", "--dist", "loadgroup", "."],
        cwd=place,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        | {"PYTHONPATH": str(ROOT), "CI": "true"},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    return done.stdout


@pytest.mark.timeout(200)  # three processes and more that load pytest, on a busy machine
@pytest.mark.parametrize(("crashing", "group"), [((3, 10, 11), ""), ((0, 11), ""), ((3, 10), GROUP)])
def test_crashes(tmp_path: Path, crashing: tuple[int, ...], group: str) -> None:
    said = run(tmp_path, group, crashing)
    assert f"{len(crashing) + 1} failed, {11 - len(crashing)} passed" in said, said
    assert "--- failed now (call): test_crash.py::test_one[7]" in said
    assert said.index("seven is said") < said.index("= FAILURES =")


@pytest.mark.timeout(200)
def test_a_crash_that_is_heard_of_late(tmp_path: Path) -> None:
    """On a busy machine a test can be sent to a worker that is gone, and that ended the run."""
    said = run(tmp_path, "", (), CONFTEST + GONE)
    assert "2 failed, 10 passed" in said, said


@pytest.mark.timeout(200)
def test_groups(tmp_path: Path) -> None:
    """Tests of a group are run by one worker. (xdist 3.8 with pytest 9.2 says nothing, and lets each be run anywhere.)"""
    said = run(tmp_path, GROUP, ())
    workers = {line[:5] for line in said.splitlines() if line.startswith("[gw") and "%]" in line}
    assert len(workers) == 1, said


@pytest.mark.parametrize(
    ("failing", "named"),
    [
        ({"tests/vm/test_a.py": [1]}, ["tests/vm/test_a.py::test_one[1]"]),
        ({"tests/vm/test_a.py": [1, 2, 3]}, [f"tests/vm/test_a.py::test_one[{number}]" for number in (1, 2, 3)]),
        ({"tests/vm/test_a.py": [0, 1, 2, 3]}, None),
        ({"tests/vm/test_a.py": [1], "tests/unit/test_b.py": [1]}, None),
        ({}, None),
    ],
)
def test_what_may_be_run_once_more(tmp_path: Path, failing: dict[str, list[int]], named: list[str] | None) -> None:
    """A few tests with guests, and only where nothing else is wrong."""
    (tmp_path / "conftest.py").write_text(CONFTEST.replace("ci_run.Crashes()", "ci_run.Again()"))
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    for name in ("tests/vm/test_a.py", "tests/unit/test_b.py"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text(
            "import pytest\n\n\n" + GROUP + "\n"
            '@pytest.mark.parametrize("number", range(4))\n'
            f"def test_one(number):\n    assert number not in {failing.get(name, [])}\n"
        )
    subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "1", "--dist", "loadgroup", "tests"],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        | {"PYTHONPATH": str(ROOT), "CI_TESTS_AGAIN": str(tmp_path / "again")},
        capture_output=True, timeout=180, check=False,
    )  # fmt: skip
    written = (tmp_path / "again").read_text().splitlines() if (tmp_path / "again").exists() else None
    assert written == named


def test_where_the_failed_tests_are_named_outlives_the_private_home() -> None:
    """Our own variables are taken from the tests (``PrivateHome``): CI names a file by one that is not."""
    script = (ROOT / ".ci" / "run").read_text()
    assert "export CI_TESTS_AGAIN=" in script and "COWSHED_TESTS" not in script
