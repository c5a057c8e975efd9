"""What an instance boots from moves with it: a root volume, UEFI variables, a TPM's memory; or the move is refused before it is begun."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from cowshed.hypervisor import Hypervisor
from cowshed.tools import run
from tests import volume_servers as servers
from tests.vm.doors import doors
from tests.vm.test_cli_migrate import configure, cowshed, shown
from tests.vm.test_tpm_and_secure_boot import READ_CLOCK
from tests.vm.two_hosts import Host

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("migration")]


@pytest.fixture
def here(hosts: tuple[Host, Host]) -> Iterator[Host]:
    for host, other in (hosts, hosts[::-1]):
        configure(host, other)
    yield hosts[0]
    for host in hosts:
        for name in shown(host):
            cowshed(host, "rm", "--yes", name)


def image(guest_dir: Path, place: Path) -> Path:
    path = place / "root.raw"
    shutil.copy(guest_dir / "tiny.raw", path)
    return path


def clock(host: Host) -> int:
    """How often its TPM says that it was started, at the last boot."""
    cowshed(host, "wait", "web", "--for", "log:cowshed-guest: tpm", "--timeout", "60s")
    return int(re.findall(r"cowshed-guest: tpm (\w+)", cowshed(host, "log", "web"))[-1], 16)


def secrets(host: Host) -> int:
    """How many libvirt keeps."""
    with Hypervisor(host.uri) as hypervisor:
        return len(hypervisor.call("list", lambda connection: connection.listSecrets()))


def test_a_root_volume_and_what_a_tpm_remembers_go_along(
    here: Host, hosts: tuple[Host, Host], guest_dir: Path, tmp_path: Path
) -> None:
    if run.find("swtpm") is None:
        pytest.skip("needs swtpm: see scripts/packages.sh test")
    """The volume asks for a password (CHAP), which is said once, to the first host."""
    _, there = hosts
    root, first, secret = image(guest_dir, tmp_path), tmp_path / "first", tmp_path / "secret"
    first.write_text(READ_CLOCK)
    secret.write_text(servers.PASSWORD)
    with servers.iscsi(root) as target, doors(hosts, target.port):
        url = f"iscsi://127.0.0.1:{target.port}/{servers.IQN}/1,user={servers.USER},password-file={secret}"
        cowshed(
            here, "run", "--root-volume", f"{url},id=v-root", "--tpm", "--name", "web", "--memory", "160M",
            "--network", "none", "--user-data", str(first), "--wait", "log:cowshed-guest: up",
        )  # fmt: skip
        begun = clock(here)
        assert (secrets(here), secrets(there)) == (1, 0)
        cowshed(here, "migrate", "web", there.address, "--live")
        assert not shown(here)
        assert shown(there)["web"]["state"] == "running"
        assert re.search(r"v-root +vda", cowshed(there, "volume", "ls", "web"))
        cowshed(there, "restart", "web", "--hard")
        cowshed(there, "wait", "web", "--for", "log:boot 2")
        assert clock(there) == begun + 1
        assert (secrets(here), secrets(there)) == (0, 1)
        cowshed(there, "migrate", "web", here.address, "--cold", "--timeout", "1")
        assert shown(here)["web"]["state"] == "running"
        assert clock(here) == begun + 2
        assert (secrets(here), secrets(there)) == (1, 0)
        assert not list((there.place / "lib/swtpm").iterdir())
        cowshed(here, "rm", "--yes", "web")
        assert not list((here.place / "lib/swtpm").iterdir())
    assert root.exists()


def test_uefi_variables_and_volumes_go_along_live_and_cold(
    here: Host, hosts: tuple[Host, Host], guest_dir: Path, tmp_path: Path
) -> None:
    _, there = hosts
    root, socket = image(guest_dir, tmp_path), tmp_path / "nbd"
    with servers.nbd(root, socket_path=socket):
        cowshed(
            here, "run", "--root-volume", f"nbd+unix:///disk?socket={socket},id=v-root", "--firmware", "uefi",
            "--name", "web", "--memory", "192M", "--network", "none", "--wait", "log:cowshed-guest: up",
        )  # fmt: skip
        before = variables(here)
        cowshed(here, "migrate", "web", there.address, "--live")
        assert variables(there) == before
        cowshed(there, "stop", "web", "--force")
        assert variables(there) == before

    # The storage is not there: seen before anything is moved.
    said = cowshed(there, "migrate", "web", here.address, "--cold", status=8)
    assert "volume v-root cannot be had at the destination" in said
    assert shown(there)["web"]["state"] == "stopped"
    assert not list((here.state / "instances").glob("*"))

    socket.unlink(missing_ok=True)
    with servers.nbd(root, socket_path=socket):
        cowshed(there, "migrate", "web", here.address, "--cold")
        assert not list((there.state / "instances").glob("*"))
        assert variables(here) == before
        cowshed(here, "start", "web")
        assert shown(here)["web"]["root_volume"] == "v-root"
        cowshed(here, "rm", "--yes", "web")


def variables(host: Host) -> bytes:
    (path,) = (host.state / "instances").glob("*/nvram.fd")
    return path.read_bytes()
