"""Durations that make no sense are refused before anything is done with them."""

from __future__ import annotations

import pytest

from cowshed.manager.host import Host
from cowshed.testing import FakeDriver
from tests.fake_command import Call, cowshed, driver, empty

__all__ = ["cowshed", "driver", "empty"]  # fixtures


@pytest.fixture
def web(driver: FakeDriver) -> FakeDriver:
    Host.connect().run("debian", name="web", memory="64M", networks=["none"])
    return driver


@pytest.mark.parametrize("interval", ["0", "0s", "0.01"])
@pytest.mark.parametrize("watch", [["--watch"], []])
def test_statistics_without_a_pause_are_refused(
    cowshed: Call, monkeypatch: pytest.MonkeyPatch, interval: str, watch: list[str]
) -> None:
    monkeypatch.setattr(Host, "usage", lambda *_: pytest.fail("statistics were taken"))
    code, out, err = cowshed("stats", *watch, "--interval", interval)
    assert (code, out) == (2, "")
    assert "interval" in err
    assert "0.1s" in err


def test_a_command_without_time_is_refused_before_the_guest_hears_of_it(cowshed: Call, web: FakeDriver) -> None:
    code, out, err = cowshed("exec", "--timeout", "0", "web", "--", "echo", "hello")
    assert (code, out) == (2, "")
    assert "0 s" in err
    assert "--timeout 60s" in err
    assert cowshed("exec", "--timeout", "1s", "web", "--", "echo", "hello")[1] == "hello\n"
