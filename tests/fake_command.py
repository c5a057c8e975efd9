"""The command on the shipped fake driver, in the test's own process: fixtures for the tests of its verbs.

A test file that wants more of the driver overrides ``driver`` with a fixture on top of ``empty``.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cowshed.cli import app
from cowshed.testing import FakeDriver

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def empty(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeDriver:
    """Behind every ``cowshed`` of the test; it has the image debian and no instance."""
    made = FakeDriver()
    monkeypatch.setenv("COWSHED_HOST_STATE", str(tmp_path / "state"))
    monkeypatch.setattr("cowshed.driver.LibvirtDriver", lambda **_: made)
    made.images.add("debian")
    return made


@pytest.fixture
def driver(empty: FakeDriver) -> FakeDriver:
    return empty


@pytest.fixture
def cowshed(driver: FakeDriver, capfd: pytest.CaptureFixture[str]) -> Call:
    """Calls the command; returns its exit code, standard output and standard error."""

    def call(*words: object) -> tuple[int, str, str]:
        capfd.readouterr()
        code = app.run([str(word) for word in words])
        return code, *capfd.readouterr()

    return call
