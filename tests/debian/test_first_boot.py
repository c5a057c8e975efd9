"""A real Debian, as a user would run it: from an image to a shell in it, and what cloud-init made of our seed."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

Cowshed = Callable[..., str]


@pytest.fixture
def cowshed() -> Iterator[Cowshed]:
    program = Path(sys.executable).with_name("cowshed")
    made: list[str] = []

    def call(*words: str, timeout: float = 60) -> str:
        if words[0] == "run":
            made.append(words[words.index("--name") + 1])
        done = subprocess.run(
            [str(program), *words],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, check=False,
        )  # fmt: skip
        assert done.returncode == 0, f"cowshed {' '.join(words)}: {done.stderr or done.stdout}"
        return done.stdout

    yield call
    for name in made:
        call("rm", name, "--yes")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_run_login_and_remove(cowshed: Cowshed, debian_image: Path, tmp_path: Path) -> None:
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key)], check=True, timeout=30)
    user_data = tmp_path / "cloud.yaml"
    user_data.write_text("#cloud-config\nruncmd:\n  - echo made by user data >/run/marker\n")
    port = free_port()
    cowshed(
        "run", str(debian_image), "--name", "deb", "--cpus", "2", "--memory", "1G", "--disk", "5G",
        "--ssh-key", f"{key}.pub", "--user-data", str(user_data), "-p", f"{port}:22", timeout=300,
    )  # fmt: skip
    # The end of cloud-init, not of its SSH part: user data comes last.
    # Half a minute on an idle machine; in CI it runs at the lowest priority beside the other tests.
    cowshed("wait", "deb", "--for", "log:Datasource DataSource", "--timeout", "15m", timeout=960)

    def inside(command: str) -> str:
        ssh = ["ssh", "-i", str(key), "-p", str(port), "-o", "StrictHostKeyChecking=no", "-o", "BatchMode=yes"]
        ssh += ["-o", f"UserKnownHostsFile={tmp_path / 'known'}", "-o", "LogLevel=ERROR", "debian@127.0.0.1", command]
        done = subprocess.run(ssh, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=180, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    assert inside("hostname") == "deb"
    assert inside("cat /run/marker") == "made by user data"
    assert inside("cloud-init status") == "status: done"
    assert int(inside("df --output=size -B 1M / | tail -n 1")) > 4 * 1024  # the root partition grew with the disk
    assert inside("systemctl is-active qemu-guest-agent") == "active"

    assert json.loads(cowshed("show", "deb", "-o", "json"))["instance"]["state"] == "running"
    cowshed("stop", "deb", "--timeout", "60", timeout=120)
    assert json.loads(cowshed("show", "deb", "-o", "json"))["instance"]["state"] == "stopped"
