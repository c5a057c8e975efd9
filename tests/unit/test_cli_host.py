"""cowshed host, on the fake driver."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cowshed.cli import app
from cowshed.manager import Host
from cowshed.testing import FakeDriver, fake_host
from cowshed.units import MiB


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    driver = FakeDriver()
    driver.images.add("tiny", bytes(MiB))

    def connect(*_: Any, **__: Any) -> Host:
        return fake_host(tmp_path, driver)

    monkeypatch.setattr(Host, "connect", connect)
    return connect()


def test_a_host_is_drained_when_nothing_runs(host: Host, capfd: pytest.CaptureFixture[str]) -> None:
    host.run("tiny", name="web")
    assert app.run(["host", "drain"]) == 8
    assert "web" in capfd.readouterr().err
    host.machine("web").stop()
    assert app.run(["host", "drain"]) == 0
    assert "on_maintenance" in capfd.readouterr().out
    assert app.run(["run", "tiny", "--name", "more"]) == 8
    assert app.run(["host", "drain", "--end"]) == 0
    assert "off_maintenance" in capfd.readouterr().out
    assert app.run(["run", "tiny", "--name", "more"]) == 0


@pytest.mark.parametrize(
    ("words", "state"),
    [("disable", "disabled"), ("enable", "enabled"), ("drain", "on_maintenance"), ("drain --end", "off_maintenance")],
)
def test_the_host_is_one_thing_with_a_name_in_every_format(
    host: Host, capfd: pytest.CaptureFixture[str], words: str, state: str
) -> None:
    name = host.driver.get_available_nodes()[0]
    assert app.run(["host", *words.split(), "-o", "json"]) == 0
    assert json.loads(capfd.readouterr().out)["host"] == {"name": name, "state": state}
    assert app.run(["host", *words.split(), "-q"]) == 0
    assert capfd.readouterr().out == f"{name}\n"
    assert app.run(["host", *words.split()]) == 0
    assert capfd.readouterr().out.split() == ["name", name, "state", state]
