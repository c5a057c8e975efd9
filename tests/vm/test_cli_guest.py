"""The verbs that reach into a guest, and those that look at the whole host, on a real guest."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.vm.test_cli_vm import Command


@pytest.fixture(scope="module")
def web(libvirt_uri: str, guest_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Command]:
    command = Command(tmp_path_factory.mktemp("cli-guest") / "state")
    command("run", guest_dir / "tiny.qcow2", "--name", "web", "--memory", "192M", "--wait", "agent")
    yield command
    command("rm", "--yes", "web")


def given(command: Command, text: bytes, *words: object, code: int = 0) -> bytes:
    done = subprocess.run(
        command.words(*words), input=text, capture_output=True, env=command.environment, timeout=120, check=False
    )
    assert done.returncode == code, done.stderr.decode()
    return done.stdout


def test_files_are_copied_in_and_out(web: Command, tmp_path: Path) -> None:
    content = os.urandom(100_000)
    (tmp_path / "here").write_bytes(content)
    assert web.json("cp", tmp_path / "here", "web:/root/there")["copied"]["bytes"] == len(content)
    web("cp", "web:/root/there", tmp_path / "back")
    web("cp", "web:/root/there", tmp_path)
    assert (tmp_path / "back").read_bytes() == (tmp_path / "there").read_bytes() == content
    web.refused("cp", "web:/nowhere", tmp_path / "no", code=3, said="/nowhere")
    assert not (tmp_path / "no").exists()
    web.refused("cp", tmp_path / "here", tmp_path / "there", code=2, said="in a guest")
    web.refused("cp", tmp_path / "missing", "web:/root/x", code=2, said="cannot be read")
    told = [
        json.loads(line)
        for line in web("cp", "--progress", "json", tmp_path / "here", "web:/root/there")[1].splitlines()
    ]
    assert {line["phase"] for line in told} == {"copy"}
    assert (told[0]["done"], told[-1]["done"], {line["total"] for line in told}) == (0, len(content), {len(content)})
    told = [
        json.loads(line) for line in web("cp", "--progress", "json", "web:/root/there", tmp_path / "b")[1].splitlines()
    ]
    assert (told[0]["total"], told[-1]["done"], told[-1]["total"]) == (len(content),) * 3


def test_what_may_have_no_end_is_not_begun(web: Command, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for source, said in ((tmp_path / "pipe", "named pipe"), ("/dev/zero", "a device"), (tmp_path, "is a directory")):
        web.refused("cp", source, "web:/root/folder/x", code=2, said=said)
    with Path("/dev/zero").open("rb") as zeros:
        done = subprocess.run(
            web.words("cp", "-", "web:/root/folder/x"),
            stdin=zeros, capture_output=True, env=web.environment, timeout=60, check=False,
        )  # fmt: skip
    assert (done.returncode, b"may have no end" in done.stderr) == (2, True), done.stderr
    web.refused("cp", "web:/etc/hostname", tmp_path / "pipe", code=2, said="no file")
    web("exec", "web", "test", "-e", "/root/folder", code=1)
    assert (tmp_path / "pipe").is_fifo()


def test_streams_are_copied_too(web: Command) -> None:
    given(web, b"by the way", "cp", "-", "web:/root/streamed")
    assert given(web, b"", "cp", "web:/root/streamed", "-") == b"by the way"


def test_commands_run_and_their_exit_code_is_ours(web: Command) -> None:
    assert web("exec", "web", "uname", "-s")[0] == "Linux\n"
    web("exec", "web", "sh", "-c", "exit 5", code=5)
    assert given(web, b"piped", "exec", "-i", "web", "cat") == b"piped"
    assert json.loads(web("exec", "-o", "json", "web", "echo", "x")[0])["executed"]["stdout"] == "x\n"
    web.refused("exec", "--timeout", "1s", "web", "sleep", "4", code=7, said="did not happen within 1 s")


def test_a_password_is_read_and_never_an_argument(web: Command) -> None:
    given(web, b"swordfish\n", "password", "--stdin", "web")
    assert "root:$sha512$" in web("exec", "web", "cat", "/etc/shadow")[0]
    web.refused("password", "web", code=2, said="terminal")


def test_what_guests_use(web: Command) -> None:
    row = web.json("stats")["usage"][0]
    assert row["name"] == "web"
    assert row["cpu_time"] > 0
    assert row["memory"] > 0
    assert web("stats", "web")[0].splitlines()[0].split()[:2] == ["NAME", "CPU"]
    web.refused("stats", "nobody", code=3, said="nobody")


def test_a_disabled_host_runs_nothing_new(web: Command, guest_dir: Path) -> None:
    assert web.json("host", "show")["host"]["instances"] == 1
    web("host", "disable")
    web.refused("run", guest_dir / "tiny.qcow2", "--name", "no", code=8, said="disabled")
    assert [item["name"] for item in web.instances()] == ["web"]
    assert "disabled" in web("host", "show")[0]
    web("host", "enable")
    assert web.json("host", "show")["host"]["disabled"] == []
