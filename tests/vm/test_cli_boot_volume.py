"""``cowshed run --root-volume``: an instance that boots from a volume, through a life of verbs, on one real guest."""

from __future__ import annotations

import io
import re
import shutil
import signal
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from cowshed.cli import app
from cowshed.hypervisor import Hypervisor
from tests import volume_servers as servers
from tests.vm.test_cli_vm import Command


class Here(Command):
    """In this process, which has all loaded: the verbs are many, and few of them wait for anything."""

    def __call__(self, *words: object, code: int = 0, timeout: float = 120, **environment: str) -> tuple[str, str]:
        out, err = (io.TextIOWrapper(io.BytesIO(), write_through=True) for _ in range(2))
        handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            for name, value in {**self.environment, **environment}.items():
                patch.setenv(name, value)
            status = app.run([str(word) for word in words])
        for number, handler in handlers.items():
            signal.signal(number, handler)
        said, told = (one.buffer.getvalue().decode(errors="replace") for one in (out, err))
        assert status == code, f"{words}: {status}\n{said}{told}"
        assert "Traceback" not in told
        return said, told


@pytest.fixture(scope="module")
def command(libvirt_uri: str, store: Path) -> Iterator[Command]:
    made = Here(store / "state")
    yield made
    if names := [item["name"] for item in made.instances()]:
        made("rm", "--yes", *names)


@pytest.fixture(scope="module")
def root(guest_dir: Path, store: Path) -> str:
    path = store / "root, the first.qcow2"  # a comma is no option
    shutil.copy(guest_dir / "tiny.qcow2", path)
    path.chmod(0o666)
    return f"{path},format=qcow2,id=v-root"


def boots(command: Command) -> list[str]:
    return re.findall(r"cowshed-guest: boot (\d+)", command("log", "web")[0])


def up(command: Command) -> None:
    command("wait", "web", "--for", "log:cowshed-guest: up", "--timeout", "110s")


def seen(command: Command) -> dict[str, str]:
    """Size of each disk by its name in the guest, at the last boot."""
    last = command("log", "web")[0].rpartition("cowshed-guest: kernel")[2]
    return dict(re.findall(r"cowshed-guest: disk (vd\w) (\d+)", last))


def test_nothing_is_left_of_what_cannot_be(command: Command, guest_dir: Path, store: Path, root: str) -> None:
    small = store / "small.raw"
    small.write_bytes(b"\0" * 512)
    image, cached = guest_dir / "tiny.qcow2", list((command.state / "cache").glob("*"))
    path = root.partition(",format")[0]
    for words, code, said in (
        (["--root-volume", root, image], 2, "would not be used"),
        (["--root-volume", root, "--disk", "1G"], 2, "no root disk"),
        (["--root-volume", root, "--disk-backend", "root=raw"], 2, "no such disk"),
        (["--root-volume", f"{root},read-only"], 2, "read-only"),
        (["--root-volume", f"{path},format=raw,fromat=qcow2"], 2, "fromat=qcow2 is no option"),
        (["--root-volume", f"{path}"], 2, "format"),
        (["--root-volume", f"{store}/none.raw,format=raw"], 3, "does not exist"),
        (["--root-volume", f"nbd://127.0.0.1:{servers.free_port()}/none"], 1, "cannot be opened"),
        (["--root-volume", f"{small},format=raw"], 8, "smaller"),
        (["--root-volume", root, "--volume", root], 4, "twice"),
        ([image, "--volume", f"{store}/none.raw,format=raw"], 3, "does not exist"),
        ([], 2, "nothing to boot from"),
    ):
        command.refused("run", *words, "--name", "web", "--network", "none", "--memory", "128M", code=code, said=said)
    assert command.instances() == []
    assert not list((command.state / "instances").glob("*"))
    assert list((command.state / "cache").glob("*")) == cached  # no image was fetched for what could be foreseen


def test_a_life_on_a_volume(command: Command, hypervisor: Hypervisor, guest_dir: Path, store: Path, root: str) -> None:
    data = servers.raw_file(store / "data.raw", "hello v-data")
    made = command.json(
        "run", "--root-volume", root, "--volume", f"{data},format=raw,id=v-data,total_iops_sec=900", "--name", "web",
        "--memory", "160M", "--network", "none", "--hostname", "from-a-volume", "--user-data", cloud(store),
        "--wait", "log:cowshed-guest: up", "--timeout", "110s",
    )["instance"]  # fmt: skip
    assert (made["image"], made["root_volume"]) == ("", "v-root")
    assert "cowshed-guest: hostname from-a-volume" in command("log", "web")[0]
    assert seen(command)["vda"] == str(64 << 20)
    assert re.search(rf"disk vd\w {servers.SIZE} rw serial v-data", command("log", "web")[0])
    assert "volume:v-root" in command("ls")[0]
    shown = command.json("show", "web")["instance"]
    assert [(one["id"], one["device"], one["root"]) for one in shown["volumes"]] == [
        ("v-root", "vda", True), ("v-data", "vdc", False),
    ]  # fmt: skip
    assert [one["name"] for one in shown["disks"]] == ["disk.config"]
    assert "v-root" in command("show", "web")[0]
    assert re.search(r"v-root +vda .* root ", command("volume", "ls", "web")[0])
    assert "boots from volume v-root" in command("disk", "ls", "web")[1]

    # What cannot be done to it, and is not begun.
    command.refused("run", "--root-volume", root, "--name", "two", "--network", "none", code=4, said="attached")
    command.refused("volume", "detach", "web", "vda", code=4, said="boots from volume")
    command.refused("rebuild", "web", guest_dir / "tiny.qcow2", "--yes", code=6, said="boots from volume")
    command.refused("resize", "web", "--disk", "1G", code=2, said="no root disk")
    command.refused("disk", "resize", "web", "1G", code=3, said="boots from volume")
    command.refused("snapshot", "create", "web", "--name", "image", code=3, said="boots from volume")
    assert boots(command) == ["1"]

    command("suspend", "web")
    command("resume", "web")
    assert (
        command.json("volume", "extend", "web", "v-data", f"{2 * servers.SIZE}")["volume"]["size"] == 2 * servers.SIZE
    )
    command("volume", "detach", "web", "v-data", "--wait", "60s")
    assert "running (resized)" in command("resize", "web", "--cpus", "2")[0]  # restarts it
    assert "(" not in command("resize", "web", "--confirm")[0]
    command("stop", "web", "--force")
    command("volume", "attach", "web", data, "--format", "raw", "--id", "v-data")

    # Rescued from an image while the volume keeps its place; it is the root again afterwards.
    command("rescue", "web", "--image", guest_dir / "tiny.raw")
    assert "running (rescued)" in command("ls")[0]
    assert command.instances()[0]["rescued"]
    up(command)
    assert int(boots(command)[-1]) > 1  # counted on the volume
    assert seen(command) | {"vda": str(64 << 20), "vdb": str(64 << 20), "vdc": str(2 * servers.SIZE)} == seen(command)
    xml = hypervisor.guest(made["uuid"]).xml()
    assert re.search(r"disk\.rescue.*?<target dev='vdb'.*?<boot order='1'/>", xml, re.DOTALL)
    assert xml.count("<boot order") == 1
    command.refused("rescue", "web", "--image", guest_dir / "tiny.raw", code=4, said="rescued")
    command("unrescue", "web")
    assert command.instances()[0]["state"] == "running"
    xml = hypervisor.guest(made["uuid"]).xml()
    assert re.search(r"root, the first.*?<target dev='vda'.*?<boot order='2'/>", xml, re.DOTALL)
    assert ".rescue" not in xml
    assert not list((command.state / "instances" / made["uuid"]).glob("*.rescue*"))
    command("rm", "--yes", "web")
    assert not list((command.state / "instances").glob("*"))
    assert Path(root.partition(",format")[0]).exists()
    assert servers.text_at(data, 0) == "hello v-data"


def cloud(store: Path) -> Path:
    path = store / "cloud"
    path.write_text("#!/bin/sh\necho hello\n")
    return path
