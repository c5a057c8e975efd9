"""The real command on real guests: a whole life, interruptions at any moment, and bad input that only a host can give."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

import cowshed
from cowshed import config
from cowshed.hypervisor import Hypervisor
from tests.conftest import LoopFs
from tests.other_user import as_nobody
from tests.vm.machines import KERNEL_OPTIONS

NOBODY = 65534


class Command:
    """``cowshed WORDS`` as a process, on a state directory of its own."""

    def __init__(self, state: Path) -> None:
        self.state = state
        self.environment = {
            **os.environ,
            "COWSHED_HOST_STATE": str(state),
            "COWSHED_CONFIG": os.devnull,
            "COWSHED_HOST_URI": "qemu:///session",
            "COWSHED_HOST_VIRT_TYPE": "qemu",
        }

    def words(self, *words: object) -> list[str]:
        return [sys.executable, "-m", "cowshed.cli", *map(str, words)]

    def begin(self, *words: object, **environment: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.words(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**self.environment, **environment},
        )

    def __call__(self, *words: object, code: int = 0, timeout: float = 120, **environment: str) -> tuple[str, str]:
        process = self.begin(*words, **environment)
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == code, f"{words}: {process.returncode}\n{out}{err}"
        assert "Traceback" not in err
        return out, err

    def json(self, *words: object) -> Any:
        return json.loads(self(*words, "-o", "json")[0])

    def instances(self) -> list[Mapping[str, Any]]:
        return list(self.json("ls")["instances"])

    def refused(self, *words: object, code: int, said: str, **environment: str) -> None:
        out, err = self(*words, code=code, **environment)
        assert out == ""
        assert said in err
        assert err.startswith("cowshed: ")
        assert len(err.splitlines()) <= 2, err


@pytest.fixture
def command(libvirt_uri: str, tmp_path: Path, hypervisor: Hypervisor) -> Iterator[Command]:
    made = Command(tmp_path / "state")
    yield made
    if names := [item["name"] for item in made.instances()]:
        made("rm", "--yes", *names)
    assert hypervisor.states() == {}


@pytest.fixture
def tiny(command: Command, guest_dir: Path) -> str:
    command("image", "pull", guest_dir / "tiny.qcow2", "--name", "tiny")
    return "tiny"


def clean(command: Command, hypervisor: Hypervisor) -> None:
    """No instance, no domain, no folder, no half-written file."""
    assert command.instances() == []
    assert hypervisor.states() == {}
    assert list((command.state / "instances").glob("*")) == []
    assert list(command.state.rglob("*.part")) == []


def boots(command: Command, name: str = "web") -> list[str]:
    return re.findall(r"cowshed-guest: boot (\d+)", command("log", name)[0])


def test_whole_life(command: Command, tiny: str, tmp_path: Path, hypervisor: Hypervisor):
    script = tmp_path / "cloud"
    script.write_text("#!/bin/sh\necho user-data says hello\n")
    made = command.json(
        "run", tiny, "--name", "web", "--cpus", 2, "--memory", "128M", "--disk", "1G", "--user-data", script,
        "-p", "0:80", "--wait", "log:cowshed-guest: up", "--timeout", "90s",
    )["instance"]  # fmt: skip
    assert (made["state"], made["cpus"], made["memory"]) == ("running", 2, 128 << 20)
    log = command("log", "web")[0]
    assert "user-data says hello" in log
    assert "cowshed-guest: hostname web" in log
    assert "cowshed-guest: disk vda 1073741824 rw" in log
    port = re.fullmatch(r"127\.0\.0\.1:(\d+)->80/tcp", made["ports"][0])
    assert port
    with urllib.request.urlopen(f"http://127.0.0.1:{port[1]}/", timeout=30) as answer:
        assert answer.read() == b"cowshed-guest web\n"
    shown = command.json("show", "web")["instance"]
    assert [(disk["name"], disk["format"], disk["size"]) for disk in shown["disks"] if disk["name"] == "disk"] == [
        ("disk", "qcow2", 1 << 30)
    ]
    assert shown["virt_type"] == "qemu"
    vnc = command.json("vnc", "web")["vnc"]
    with socket.create_connection((vnc["host"], vnc["port"]), timeout=10) as screen:
        assert screen.recv(3) == b"RFB"
    for verb, state in (("pause", "paused"), ("resume", "running"), ("suspend", "suspended"), ("start", "running")):
        assert command(verb, "web")[0].split()[-2:] == ["web", state]
        assert command.instances()[0]["state"] == state
    assert boots(command) == ["1"]  # suspended and not booted again
    assert command.json("disk", "resize", "web", "+1G")["disk"]["size"] == 2 << 30
    command("wait", "web", "--for", f"log:cowshed-guest: disk vda {2 << 30} rw", "--timeout", "60s")
    began = time.monotonic()
    (stopped,) = command.json("stop", "web", "--timeout", "60s")["instances"]
    assert (stopped["state"], stopped["ended"]) == ("stopped", "shut down")
    assert time.monotonic() - began < 50, "the guest was not asked"
    assert "cowshed-guest: down" in command("log", "web")[0]
    command("stop", "web")
    command("disk", "snapshot", "create", "web", "stopped")
    command("disk", "snapshot", "rollback", "web", "stopped", "--yes")
    command("disk", "snapshot", "rm", "web", "stopped", "--yes")
    assert command.json("disk", "move", "web", "--to", "raw")["disk"]["format"] == "raw"
    kept = command.json("rm", "--soft", "web")["instances"][0]
    assert (kept["state"], kept["reclaim_at"], command.instances()) == ("soft-deleted", None, [])
    assert command.json("ls", "--deleted")["instances"] == [kept]
    command.refused("start", "web", code=4, said="web is softly deleted; it cannot be started")
    assert command("restore", "web")[0].split()[-2:] == ["web", "stopped"]  # as it was
    command("start", "web")
    command("wait", "web", "--for", "log:cowshed-guest: up", "--timeout", "90s")
    assert boots(command) == ["1", "2"]  # the disk is the same
    command("restart", "web", "--hard")
    assert command.instances()[0]["state"] == "running"
    assert command("rm", "--yes", "web")[0] == "REMOVED\nweb\n"
    events = [row["event"] for row in command.json("events")["events"]]
    assert events == [
        "created", "paused", "resumed", "suspended", "started", "disk resized", "stopped", "snapshot taken",
        "rolled back", "snapshot removed", "disk moved", "softly deleted", "restored",
        "started", "restarted", "removed",
    ]  # fmt: skip
    clean(command, hypervisor)
    bases = command.json("image", "prune", "--yes")["bases"]
    assert len(bases) == 1
    assert list((command.state / "cache").glob("*.raw")) == []


def test_from_a_file_on_a_raw_disk(command: Command, guest_dir: Path, hypervisor: Hypervisor):
    words = ["run", guest_dir / "tiny.raw", "--backend", "raw", "--network", "none", "--memory", "128M"]
    made = command.json(*words, "--name", "box", "--wait", "log:cowshed-guest: up", "--timeout", "90s")["instance"]
    assert made["networks"] == ["none"]
    disks = {disk["name"]: disk for disk in command.json("show", "box")["instance"]["disks"]}
    assert (disks["disk"]["backend"], disks["disk"]["format"]) == ("raw", "raw")
    assert "cowshed-guest: boot 1" in command("log", "box")[0]
    command("rm", "-y", "box")
    clean(command, hypervisor)


def test_kernel_boot(command: Command, tiny: str, guest_dir: Path):
    command(
        "run", tiny, "--name", "web", "--memory", "128M", "--kernel", guest_dir / "vmlinuz",
        "--initrd", guest_dir / "initramfs", "--cmdline", f"{KERNEL_OPTIONS} mark=ours",
        "--wait", "log:cowshed-guest: up", "--timeout", "90s",
    )  # fmt: skip
    assert "mark=ours" in command("log", "web")[0]
    assert "cowshed-guest: firmware bios" in command("log", "web")[0]


def test_console_on_a_terminal(command: Command, tiny: str):
    command("run", tiny, "--name", "web", "--memory", "128M", "--wait", "log:cowshed-guest: up", "--timeout", "90s")
    master, slave = pty.openpty()
    process = subprocess.Popen(
        command.words("console", "web"), stdin=slave, stdout=slave, stderr=subprocess.PIPE, env=command.environment
    )
    os.close(slave)
    seen = b""
    typed = False
    deadline = time.monotonic() + 60
    while b"said 42" not in seen:
        assert time.monotonic() < deadline, seen
        ready, _, _ = select.select([master], [], [], 1)
        if ready:
            seen += os.read(master, 4096)
        if not typed or not ready:  # what is typed before the console is joined is echoed here, and lost
            os.write(master, b"\necho said $((6*7))\n")
            typed = True
    os.write(master, b"\x1d")
    assert process.wait(20) == 0
    os.close(master)
    assert process.stderr
    assert b"^] leaves" in process.stderr.read()
    process.stderr.close()


def test_events_as_they_happen(command: Command, tiny: str):
    command("run", tiny, "--name", "web", "--memory", "128M")
    process = command.begin("events", "--follow", "-o", "json")
    assert process.stdout
    try:
        assert json.loads(process.stdout.readline())["event"] == "created"
        time.sleep(1)  # its own start-up has no sign
        command("stop", "web", "--force")
        heard = json.loads(process.stdout.readline())
        assert (heard["name"], heard["event"], heard["schema_version"]) == ("web", "stopped", 1)
    finally:
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err.strip() == "interrupted"


def test_library(command: Command, tiny: str, hypervisor: Hypervisor, monkeypatch: pytest.MonkeyPatch):
    for name in ("COWSHED_HOST_STATE", "COWSHED_CONFIG", "COWSHED_HOST_URI", "COWSHED_HOST_VIRT_TYPE"):
        monkeypatch.setenv(name, command.environment[name])
    with cowshed.Host.connect(config=config.load()) as host:
        with host.run(tiny, memory="128M", ephemeral=True) as machine:
            assert machine.wait("log:cowshed-guest: up", timeout=90)
            assert machine.state == "running"
            assert b"cowshed-guest: up" in machine.log()
        assert host.machines() == []
    clean(command, hypervisor)


def before_main(code: int, err: str) -> bool:
    """Was Python itself still starting?"""
    return code == -signal.SIGINT or "Fatal Python error" in err or "runpy" in err


# --- interrupted at any moment ------------------------------------------------------------------------------------------


@pytest.mark.timeout(400)
def test_interrupted_run_leaves_nothing(command: Command, tiny: str, hypervisor: Hypervisor):
    """^C after more and more time, until the command has finished before."""
    codes = []
    for moment in range(24):
        process = command.begin("run", tiny, "--name", "web", "--memory", "128M")
        time.sleep(0.06 * 1.25**moment - 0.06)  # to 10 s, for a busy machine
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        codes.append(process.returncode)
        if process.returncode == 0:
            break
        if not before_main(process.returncode, err):
            assert process.returncode == 130, err
            assert "Traceback" not in err
        if "web was started" in err:
            command("rm", "--yes", "web")
        clean(command, hypervisor)
    assert codes.count(130) >= 2
    assert codes[-1] == 0
    assert command.instances()[0]["state"] == "running"


@pytest.mark.timeout(400)
def test_killed_run_is_cleared_away_by_the_next(command: Command, tiny: str, hypervisor: Hypervisor):
    """kill -9 at moments spread over the whole run; the same name works at once."""
    began = time.monotonic()
    command("run", tiny, "--name", "web", "--memory", "128M")
    whole = time.monotonic() - began
    command("rm", "--yes", "web")
    for moment in range(1, 9):
        process = command.begin("run", tiny, "--name", "web", "--memory", "128M")
        time.sleep(whole * moment / 8)
        process.kill()
        process.communicate()
        if [item["state"] for item in command.instances()] == ["running"]:
            command("rm", "--yes", "web")
        command("run", tiny, "--name", "web", "--memory", "128M")
        assert [(item["name"], item["state"]) for item in command.instances()] == [("web", "running")]
        assert len(hypervisor.states()) == 1
        command("rm", "--yes", "web")
        clean(command, hypervisor)


def test_killed_rm_is_finished_by_the_next(command: Command, tiny: str, hypervisor: Hypervisor):
    for moment in range(1, 6):
        command("run", tiny, "--name", "web", "--memory", "128M", "--network", "none")
        process = command.begin("rm", "--yes", "web")
        time.sleep(0.08 * moment)
        process.kill()
        process.communicate()
        if command.instances():
            command("rm", "--yes", "web")
        clean(command, hypervisor)


def test_interrupted_pull_leaves_nothing(command: Command, guest_dir: Path):
    for moment in range(1, 7):
        process = command.begin("image", "pull", guest_dir / "tiny.raw", "--name", "tiny")
        time.sleep(0.05 * moment)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        if process.returncode == 0:
            command("image", "rm", "--yes", "tiny")
            continue
        if not before_main(process.returncode, err):
            assert process.returncode == 130, err
            assert "Traceback" not in err
        assert command.json("image", "ls")["images"] == []
        assert list((command.state / "images").glob(".new-*")) == []
    command("image", "pull", guest_dir / "tiny.raw", "--name", "tiny")


# --- what only a host can say -------------------------------------------------------------------------------------------


def test_bad_input(command: Command, tiny: str, hypervisor: Hypervisor, tmp_path: Path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        command.refused("run", tiny, "-p", f"{port}:22", code=4, said=f"port {port} on 127.0.0.1 is in use")
    command.refused("run", tiny, "--network", "nonsense", code=3, said="network nonsense does not exist")
    command.refused("run", tiny, "--network", "bridge:nonsense", code=3, said="bridge nonsense does not exist")
    command.refused("run", tiny, "--disk", "1M", code=8, said="smaller than")
    command.refused("run", tiny, "--name", "x y", code=2, said="cannot be the name")
    command.refused("run", "unknown", code=3, said="image unknown does not exist")
    command.refused("run", tiny, "--property", "hw_disk_bus=floppy", code=2, said="hw_disk_bus")
    clean(command, hypervisor)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("/nowhere/qemu", "/nowhere/qemu does not exist"),
        ("qemu-system-x86_64", "qemu-system-x86_64 is no absolute path"),
        ("/bin/ls", "/bin/ls is no QEMU system emulator"),
        ("/usr/bin/qemu-system-i386", "Emulator '/usr/bin/qemu-system-i386' does not support arch 'x86_64'"),
    ],
    ids=["missing", "a name", "no QEMU", "another machine's"],
)
def test_an_emulator_that_is_of_no_use(command: Command, tiny: str, hypervisor: Hypervisor, path: str, why: str):
    command.refused("run", tiny, code=2, said="cowshed: [host] emulator: ", COWSHED_HOST_EMULATOR=path)
    command.refused("run", tiny, code=2, said=why, COWSHED_HOST_EMULATOR=path)
    clean(command, hypervisor)
    out, _ = command("doctor", "-o", "json", code=1, COWSHED_HOST_EMULATOR=path)
    findings = json.loads(out)["findings"]
    right = {one["subject"] for one in command.json("doctor")["findings"]}
    assert {one["subject"] for one in findings} == right, "what does not need it is told all the same"
    errors = [one for one in findings if one["level"] == "error"]
    assert [one["subject"] for one in errors] == ["QEMU"]
    assert errors[0]["sentence"].startswith("[host] emulator: ")
    assert why in errors[0]["sentence"]


def test_two_instances_on_one_port(command: Command, tiny: str):
    ports = command.json("run", tiny, "--name", "one", "--memory", "128M", "-p", "0:22")["instance"]["ports"]
    port = ports[0].split(":")[1].split("->")[0]
    command.refused("run", tiny, "--name", "two", "-p", f"{port}:22", code=4, said=f"port {port}")
    assert [item["name"] for item in command.instances()] == ["one"]


def test_no_libvirt(command: Command, tiny: str, tmp_path: Path):
    uri = f"qemu+unix:///session?socket={tmp_path}/no-such-socket"
    for words in (["run", tiny], ["run", tiny, "--name", "web"]):
        command.refused(*words, code=8, said="cannot be reached", COWSHED_HOST_URI=uri)
    command.refused("--connect", uri, "events", "--follow", code=8, said="cannot be reached")
    assert command.instances() == []
    assert list((command.state / "instances").glob("*")) == []
    assert command.json("image", "ls")["images"][0]["name"] == tiny  # needs no libvirt


def test_no_libvirt_shows_no_state(command: Command, tiny: str, tmp_path: Path):
    command("run", tiny, "--name", "web", "--memory", "128M")
    uri = f"qemu+unix:///session?socket={tmp_path}/no-such-socket"
    command.refused("ls", code=8, said="cannot be reached", COWSHED_HOST_URI=uri)
    command.refused("rm", "--yes", "web", code=8, said="cannot be reached", COWSHED_HOST_URI=uri)
    assert command.instances()[0]["state"] == "running"


def run_as_nobody(words: list[str], environment: Mapping[str, str], home: Path) -> subprocess.CompletedProcess[str]:
    places = {f"XDG_{name}_HOME": str(home) for name in ("CONFIG", "DATA", "CACHE", "STATE")}
    return subprocess.run(
        as_nobody(*words),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd="/",
        env={**environment, **places, "HOME": str(home), "XDG_RUNTIME_DIR": str(home)},
    )


@pytest.fixture
def nobody_can_run() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: becomes another user")
    done = subprocess.run(as_nobody(sys.executable, "-c", "import cowshed.cli"), check=False)
    if done.returncode:
        pytest.skip("needs a project directory that others may read")


@pytest.mark.usefixtures("nobody_can_run")
def test_no_permission_on_the_state(command: Command, tiny: str):
    """The folder of the tests is root's alone."""
    for words in (["ls"], ["image", "ls"], ["run", tiny], ["image", "pull", "/bin/true", "--name", "x"]):
        done = run_as_nobody(command.words(*words), command.environment, Path("/nonexistent"))
        assert done.returncode == 5, done.stderr
        assert "no permission to" in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.usefixtures("nobody_can_run")
def test_no_permission_on_the_socket(command: Command, tmp_path: Path):
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as folder, socket.socket(socket.AF_UNIX) as server:
        os.chown(folder, NOBODY, NOBODY)
        path = f"{folder}/sock"
        server.bind(path)
        server.listen()
        os.chmod(path, 0o600)
        environment = {**command.environment, "COWSHED_HOST_STATE": f"{folder}/state"}
        words = command.words("--connect", f"qemu+unix:///system?socket={path}", "events", "--follow")
        done = run_as_nobody(words, environment, Path(folder))
    assert done.returncode == 5, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("cowshed: no permission")


def test_no_space(command: Command, guest_dir: Path, loopfs: LoopFs, hypervisor: Hypervisor):
    """Before: the image does not fit into the store. In the middle: the base fits, the raw disk does not."""
    place = loopfs("ext4", size="64M")
    command.environment["COWSHED_HOST_STATE"] = str(place / "state")
    command.state = place / "state"
    command("image", "pull", guest_dir / "tiny.qcow2", "--name", "tiny")
    filler = place / "filler"
    free = os.statvfs(place).f_bavail * os.statvfs(place).f_frsize
    filler.write_bytes(os.urandom(max(0, free - (6 << 20))))
    for words in (["image", "pull", guest_dir / "tiny.qcow2", "--name", "second"], ["run", "tiny", "--backend", "raw"]):
        out, err = command(*words, code=8)
        assert out == ""
        assert "no space left" in err
    assert [image["name"] for image in command.json("image", "ls")["images"]] == ["tiny"]
    clean(command, hypervisor)
    filler.unlink()
    command("image", "pull", guest_dir / "tiny.qcow2", "--name", "second")


def test_quick_ls_says_what_the_usual_one_does(command: Command, tiny: str, hypervisor: Hypervisor):
    """`cowshed ls` without a word more takes a shorter way (cli/quick.py)."""
    plain = {name: value for name, value in command.environment.items() if not name.startswith("COWSHED_")}
    plain["COWSHED_HOST_STATE"] = str(command.state)
    compared = 0

    def compare() -> None:
        nonlocal compared
        tables = []
        for words in (["ls"], ["ls", "-o", "table"]):
            done = subprocess.run(
                command.words(*words), env=plain, capture_output=True, text=True, timeout=60, check=False
            )
            assert (done.returncode, done.stderr) == (0, "")
            tables.append([line.split()[:6] for line in done.stdout.splitlines()])
        assert tables[0] == tables[1]
        compared += len(tables[0])

    compare()
    command("run", tiny, "--name", "web", "--memory", "128M", "-p", "0:22")
    command("run", tiny, "--name", "db", "--memory", "128M", "--network", "none")
    compare()
    command("pause", "web")
    command("stop", "--force", "db")
    compare()
    command("suspend", "web")
    compare()
    command("resume", "web")
    hypervisor.guest(command.json("show", "web")["instance"]["uuid"]).save()  # as virsh managedsave does
    compare()
    assert command.json("show", "web")["instance"]["state"] == "suspended"
    command("start", "web")
    command("rm", "--soft", "db")
    compare()
    command("rm", "--yes", "db")
    assert compared == 1 + 4 * 3 + 2
