"""The examples of docs/rooms/testing.md, run as a stranger would run them: outside of this tree, with pytest alone."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import unittest
from collections.abc import Callable
from pathlib import Path

import pytest

from cowshed.testing import FakeDriver
from cowshed.testing.conformance import DriverConformance
from cowshed.testing.conformance.driver import ALWAYS_HOLLOW, DriverSuite, image_content, keeping, promise

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rooms" / "testing.md"

Run = Callable[..., subprocess.CompletedProcess[str]]


def example(name: str = "test_mine.py") -> str:
    """A file that the page shows."""
    (found,) = re.findall(rf"^```python\n(# {re.escape(name)}\n.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)
    return str(found)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    def runs(text: str, *words: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "test_mine.py").write_text(text)
        (tmp_path / "test_mine_once.py").write_text(example("test_mine_once.py"))
        bare = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tmp_path)]
        command += words or ("test_mine.py",)
        return subprocess.run(command, check=False, cwd=tmp_path, env=bare, capture_output=True, text=True)

    return runs


@pytest.mark.parametrize("name", ["test_mine.py", "test_mine_once.py"])
def test_the_example_passes_with_every_promise(run: Run, name: str) -> None:
    done = run(example(), name)
    assert done.returncode == 0, done.stdout
    promises = [name for name in dir(DriverConformance) if name.startswith("test_")]
    assert f"{len(promises)} passed" in done.stdout


def test_what_the_example_does_not_allow_fails_and_says_what_to_write(run: Run) -> None:
    text = re.sub(r"^    may_be_hollow = .*\n", "", example(), flags=re.MULTILINE)
    assert text != example()
    done = run(text, "test_mine.py", "-k", "suspend")
    assert done.returncode == 1
    assert 'may_be_hollow = DriverConformance.may_be_hollow | {"suspend"}' in done.stdout


def test_a_broken_promise_of_the_example_is_found(run: Run) -> None:
    text = example().replace("    def suspend(", "    def pause(self, instance):\n        pass\n\n    def suspend(", 1)
    assert text != example()
    done = run(text, "test_mine.py", "-k", "pause")
    assert done.returncode == 1
    assert "not PAUSED" in done.stdout


class Bare(DriverSuite):
    """A driver is all it has."""

    def __init__(self) -> None:
        self.fake = FakeDriver()
        self.driver = self.fake
        self.fake.init_host("here")

    @promise("suspend")
    def test_suspend(self) -> None:
        self.driver.live_migration_abort(self.unknown())


def test_the_suite_makes_its_image_once_and_removes_its_instances() -> None:
    suite = Bare()
    suite.spawned()
    suite.lasting()
    assert suite.fake.images.content(suite.image) == image_content()
    assert len(suite.fake.guests) == 2
    suite.teardown_method()
    assert not suite.fake.guests
    other = Bare()
    other.driver = other.fake = suite.fake
    assert other.image.id == suite.image.id


def test_what_all_tests_share_goes_at_the_end_only() -> None:
    suite = Bare()
    with keeping(suite.driver) as suite.kept:
        suite.lasting()
        suite.teardown_method()
        assert len(suite.fake.guests) == 1
    assert not suite.fake.guests


def test_a_driver_without_image_service_is_said_to_need_an_image() -> None:
    suite = Bare()
    del suite.fake.images
    with pytest.raises(AssertionError, match="FakeDriver has no image service called images: set image"):
        suite.unknown()


def test_the_call_that_is_missing_is_named_where_it_is_not_what_the_test_is_about() -> None:
    suite = Bare()
    suite.may_be_hollow = ()
    with pytest.raises(AssertionError, match=r'is hollow: .*\n.*\{"live_migration_abort"\}'):
        suite.test_suspend()
    suite.may_be_hollow = {"live_migration_abort"}
    suite.test_suspend()
    assert suite.hollow == [("test_suspend", "live_migration_abort")]


def test_all_calls_that_a_driver_lacks_are_named_at_once() -> None:
    suite = DriverConformance()
    suite.driver, suite.may_be_hollow = FakeDriver(), ALWAYS_HOLLOW
    suite.driver.init_host("here")
    with pytest.raises(AssertionError, match="FakeDriver lacks") as caught:
        suite.test_what_is_not_fulfilled_says_so()
    assert all(f'"{call}"' in str(caught.value) for call in ("live_migration", "finish_migration"))


def test_unittest_runs_the_promises() -> None:
    class Mine(DriverConformance, unittest.TestCase):
        def setUp(self) -> None:
            self.driver = drivers[0]

    drivers = [FakeDriver()]
    drivers[0].init_host("here")
    result = unittest.TestResult()
    Mine("test_pause_and_unpause_may_be_repeated").run(result)
    assert result.testsRun == 1
    assert result.wasSuccessful(), result.failures + result.errors
    assert drivers[0].called("destroy")
    assert not drivers[0].guests
