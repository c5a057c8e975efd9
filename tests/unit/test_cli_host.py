"""cowshed host, on the fake driver."""

from __future__ import annotations

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
