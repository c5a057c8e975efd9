"""``cowshed migrate`` and ``cowshed resize`` as a user runs them, between two real libvirt hosts."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.vm.two_hosts import Host

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("migration")]

COWSHED = [sys.executable, "-m", "cowshed.cli"]


@pytest.fixture(autouse=True)
def configured(hosts: tuple[Host, Host]) -> None:
    for host, other in (hosts, hosts[::-1]):
        configure(host, other)


def configure(
    host: Host, other: Host, bandwidth: int = 0, reach: Sequence[str] = (), more: str = "", uri: str = ""
) -> None:
    """Instead of ssh to the other host: its configuration, behind the words ``reach``. ``more``: for [migration]."""
    host.state.mkdir(exist_ok=True)
    command = [*reach, "env", f"COWSHED_CONFIG={other.place}/config.toml", *COWSHED]
    (host.place / "config.toml").write_text(f"""
[host]
uri = "{host.uri}"
state = "{host.state}"
address = "{host.address}"
virt_type = "qemu"
[guest]
cpu_mode = "qemu64"
tpm_directory = "{host.place}/lib/swtpm"
[migration]
uri = "{uri or "qemu+tcp://%s/system"}"
address = "{host.address}"
bandwidth = {bandwidth}
command = {json.dumps(command)}
{more}
""")


def start(host: Host, *words: str) -> subprocess.Popen[str]:
    ours = {name: value for name, value in os.environ.items() if not name.startswith("COWSHED_")}
    environment = {**ours, "COWSHED_CONFIG": str(host.place / "config.toml")}
    return subprocess.Popen(
        [*COWSHED, *words], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def cowshed(host: Host, *words: str, status: int = 0) -> str:
    process = start(host, *words)
    out, err = process.communicate(timeout=150)
    assert process.returncode == status, f"{words}: {process.returncode}\n{out}\n{err}"
    return out + err


def shown(host: Host) -> dict[str, Any]:
    return {one["name"]: one for one in json.loads(cowshed(host, "ls", "-o", "json"))["instances"]}


def test_live_there_cold_back_and_resize(hosts: tuple[Host, Host], guest_dir: Path) -> None:
    here, there = hosts
    cowshed(
        here, "run", str(guest_dir / "tiny.qcow2"), "--name", "web", "--memory", "160M", "--network", "none",
        "--wait", "log:cowshed-guest: up",
    )  # fmt: skip

    configure(here, here)  # whatever name is given, the command leads to this host
    for how in ("--cold", "--live"):
        assert "is this host" in cowshed(here, "migrate", "web", here.address, how, status=2)
        assert "this host itself" in cowshed(here, "migrate", "web", there.address, how, status=8)
    configure(here, there, uri=here.uri)
    assert "both must lead to the same host" in cowshed(here, "migrate", "web", there.address, "--live", status=8)
    assert shown(here)["web"]["state"] == "running"

    # ^C in the middle: it runs here as before. Killed in the middle: the next call puts right what is left.
    configure(here, there, bandwidth=2 << 20)
    for number, status in ((signal.SIGINT, 130), (signal.SIGKILL, -9)):
        process = start(here, "migrate", "web", there.address, "--live", "--progress", "json")
        assert process.stderr
        said = ""
        while '"migrate"' not in said:
            said = process.stderr.readline()
            assert said, "it ended"
        process.send_signal(number)
        _, err = process.communicate(timeout=60)
        assert process.returncode == status, err
        assert shown(here)["web"]["state"] == "running"
        assert not shown(there)
    configure(here, there)
    assert list((here.state / "transit").glob("*"))

    begun = time.monotonic()
    cowshed(here, "host", "drain", "--to", there.address)
    print(f"live, settling included: {time.monotonic() - begun:.1f} s")
    cowshed(here, "host", "drain", "--end")
    assert not shown(here)
    assert shown(there)["web"]["state"] == "running"
    assert "migrated" in cowshed(here, "events")

    begun = time.monotonic()
    assert f"web   {here.address}" in cowshed(there, "migrate", "web", here.address, "--cold", "--timeout", "20s")
    print(f"cold: {time.monotonic() - begun:.1f} s")
    assert not shown(there)
    assert shown(here)["web"]["state"] == "running"
    cowshed(here, "wait", "web", "--for", "log:boot 2", "--timeout", "60s")

    assert "never cut" in cowshed(here, "resize", "web", "--disk", "32M", status=8)
    assert "1000 CPUs" in cowshed(here, "resize", "web", "--cpus", "1000", status=8)
    # ^C while it goes down, and again: it runs as before.
    process = start(here, "resize", "web", "--memory", "176M")
    time.sleep(1.2)
    process.send_signal(signal.SIGINT)
    time.sleep(0.3)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=90)
    assert process.returncode == 130 and "Traceback" not in err, err
    assert (shown(here)["web"]["state"], shown(here)["web"]["memory"]) == ("running", 160 << 20)
    assert not list((here.state / "transit").glob("*"))
    cowshed(here, "stop", "web", "--force")
    cowshed(here, "resize", "web", "--cpus", "2", "--disk", "80M")
    assert "neither confirmed nor reverted" in cowshed(here, "resize", "web", "--cpus", "3", status=4)
    assert shown(here)["web"]["cpus"] == 2
    cowshed(here, "resize", "web", "--revert")
    assert shown(here)["web"]["cpus"] == 1
    cowshed(here, "resize", "web", "--cpus", "2")
    cowshed(here, "resize", "web", "--confirm")
    assert "not resized" in cowshed(here, "resize", "web", "--revert", status=4)
    assert shown(here)["web"]["cpus"] == 2
    cowshed(here, "rm", "--yes", "web")
    for host in hosts:
        assert not list((host.state / "instances").glob("*"))
        assert not list((host.state / "transit").glob("*"))


def test_a_host_that_is_not_there(hosts: tuple[Host, Host], guest_dir: Path) -> None:
    here, there = hosts
    assert "does not exist" in cowshed(here, "migrate", "nobody", there.address, "--live", status=3)
    assert "--live or --cold" in cowshed(here, "migrate", "nobody", there.address, status=2)
