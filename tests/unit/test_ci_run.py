"""A worker that crashes costs one test, and the run goes on to its end."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent

CONFTEST = """
from tests import ci_run

def pytest_configure(config):
    config.pluginmanager.register(ci_run.Crashes())
    config.pluginmanager.register(ci_run.FailuresAtOnce(config))
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


@pytest.mark.timeout(200)  # three processes and more that load pytest, on a busy machine
@pytest.mark.parametrize(
    ("crashing", "group"),
    [((3, 10, 11), ""), ((0, 11), ""), ((3, 10), '@pytest.mark.xdist_group("one")')],
)
def test_crashes(tmp_path: Path, crashing: tuple[int, ...], group: str) -> None:
    (tmp_path / "conftest.py").write_text(CONFTEST)
    (tmp_path / "test_crash.py").write_text(TESTS.format(crashing=crashing, group=group))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n", "2", "--dist", "loadgroup", str(tmp_path)],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        | {"PYTHONPATH": str(ROOT), "CI": "true"},
        capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    assert f"{len(crashing) + 1} failed, {11 - len(crashing)} passed" in done.stdout, done.stdout
    assert "--- failed now (call): test_crash.py::test_one[7]" in done.stdout
    assert done.stdout.index("seven is said") < done.stdout.index("= FAILURES =")
