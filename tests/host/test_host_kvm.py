"""The KVM probe against QEMUs that abort, hang, spin or run: an answer in time, and no process left."""

from __future__ import annotations

import json
import os
import platform
import shutil
import time
from pathlib import Path

import pytest

from cowshed.host import doctor, kvm
from cowshed.host.emulator import REMEDY
from cowshed.host.kvm import KvmState, probe

pytestmark = [
    pytest.mark.host,
    pytest.mark.skipif(platform.machine() != "x86_64", reason="the test guest is for x86_64"),
]

SCRIPTS = {
    "runs": "exit 85",
    "hangs": "sleep 60",
    "spins": "while :; do :; done",
    "aborts": "echo 'Assertion failed: msr' >&2; kill -ABRT $$",
    "refuses": "echo 'qemu: could not access KVM kernel module' >&2; exit 1",
    "ends at once": "exit 0",
    "ignores signals": "trap '' TERM INT HUP; sleep 60 & wait",
}
ANSWERS = {
    "runs": "",
    "hangs": "did not run within 4 s",
    "spins": "hangs",
    "aborts": "cannot run a guest under KVM: Assertion failed: msr",
    "refuses": "could not access KVM kernel module",
    "ends at once": "it said nothing",
    "ignores signals": "did not run within 4 s",
}


@pytest.fixture
def device(tmp_path: Path) -> Path:
    path = tmp_path / "kvm"
    path.touch()
    return path


def fake(tmp_path: Path, script: str) -> str:
    """An emulator that counts its starts."""
    path = tmp_path / "qemu-system-x86_64"
    path.write_text(f"#!/bin/sh\necho $$ >>{tmp_path}/starts\n{script}\n")
    path.chmod(0o755)
    return str(path)


def starts(tmp_path: Path) -> list[int]:
    path = tmp_path / "starts"
    return [int(line) for line in path.read_text().split()] if path.exists() else []


def alive(leader: int) -> list[str]:
    """Processes of the group that are more than a line in the table."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, group = path.read_text().rpartition(")")[2].split()[:3]
        except (OSError, ValueError):
            continue
        if int(group) == leader and state not in "ZX":
            found.append(path.parent.name)
    return found


@pytest.mark.parametrize("what", SCRIPTS)
def test_each_kind_of_emulator_gets_its_answer_in_time(tmp_path: Path, device: Path, what: str) -> None:
    emulator = fake(tmp_path, SCRIPTS[what])
    limit = 40 if what == "spins" else 4  # its end is a second of CPU time, which takes long on a busy machine
    started = time.monotonic()
    state = probe(limit, tmp_path / "facts" / "kvm.json", emulator=emulator, device=device)
    assert time.monotonic() - started < limit + 4
    assert state.usable is (what == "runs")
    assert ANSWERS[what] in state.reason
    (leader,) = starts(tmp_path)
    until = time.monotonic() + 10
    while alive(leader) and time.monotonic() < until:
        time.sleep(0.02)  # the children of the one that was waited for end when they next have the CPU
    assert alive(leader) == []


def test_the_answer_is_remembered_until_something_changes(tmp_path: Path, device: Path) -> None:
    cache = tmp_path / "kvm.json"
    emulator = fake(tmp_path, "exit 85")
    for _ in range(3):
        assert probe(4, cache, emulator=emulator, device=device).usable
    assert len(starts(tmp_path)) == 1
    assert probe(4, cache, emulator=emulator, device=device, fresh=True).usable
    assert len(starts(tmp_path)) == 2
    emulator = fake(tmp_path, "echo no >&2; exit 1 # another QEMU")
    assert not probe(4, cache, emulator=emulator, device=device).usable
    device.chmod(0o640)
    probe(4, cache, emulator=emulator, device=device)
    assert len(starts(tmp_path)) == 4


@pytest.mark.parametrize("damage", ["", "{}", "[]", '{"key": 1}', "\0"])
def test_a_damaged_memory_is_no_obstacle(tmp_path: Path, device: Path, damage: str) -> None:
    cache = tmp_path / "kvm.json"
    cache.write_text(damage)
    assert probe(4, cache, emulator=fake(tmp_path, "exit 85"), device=device).usable
    assert json.loads(cache.read_text())["state"]["usable"] is True


def test_a_place_that_cannot_be_written_is_no_obstacle(tmp_path: Path, device: Path) -> None:
    (tmp_path / "file").touch()
    assert probe(4, tmp_path / "file" / "kvm.json", emulator=fake(tmp_path, "exit 85"), device=device).usable


def test_not_in_time_is_believed_for_a_while_only(
    tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "kvm.json"
    emulator = fake(tmp_path, "sleep 60")
    probe(0.3, cache, emulator=emulator, device=device)
    probe(0.3, cache, emulator=emulator, device=device)
    assert len(starts(tmp_path)) == 1
    monkeypatch.setattr(kvm, "_UNDECIDED_AGE", 0.0)
    probe(0.3, cache, emulator=emulator, device=device)
    assert len(starts(tmp_path)) == 2


def test_without_a_device_or_emulator_nothing_is_started(tmp_path: Path, device: Path) -> None:
    state = probe(4, tmp_path / "kvm.json", emulator=fake(tmp_path, "exit 85"), device=tmp_path / "none")
    assert not state.usable
    assert "there is no" in state.reason
    assert state.remedy
    assert starts(tmp_path) == []
    state = probe(4, tmp_path / "kvm.json", emulator="no-such-qemu", device=device)
    assert (state.usable, state.reason) == (False, "no-such-qemu is not installed")
    assert "install the package" in state.remedy


def test_a_configured_emulator_that_cannot_be_used_says_nothing_of_kvm(tmp_path: Path, device: Path) -> None:
    """And installing another one does not mend it."""
    other = fake(tmp_path, "echo no such option >&2; exit 2")
    for path, why in ((str(tmp_path / "gone"), "does not exist"), (other, "is no QEMU system emulator")):
        state = probe(4, tmp_path / "kvm.json", emulator=path, configured=True, device=device)
        assert (state.usable, state.known) == (False, False)
        assert state.reason == f"[host] emulator cannot be used: {path} {why}"
        assert state.remedy == REMEDY
        assert probe(4, tmp_path / "kvm.json", emulator=path, configured=True, device=device) == state
        (finding,) = doctor.kvm(state)
        assert (finding.level, finding.remedy) == ("warning", REMEDY)
        assert finding.sentence == f"whether guests run under KVM is not known: {state.reason}"


def test_a_configured_emulator_that_is_qemu_is_not_blamed(tmp_path: Path, device: Path) -> None:
    path = fake(tmp_path, '[ "$1" = --version ] && exec echo QEMU emulator version 9; echo no KVM >&2; exit 1')
    state = probe(4, tmp_path / "kvm.json", emulator=path, configured=True, device=device)
    assert (state.usable, state.known) == (False, True)
    assert "cannot run a guest under KVM: no KVM" in state.reason


def test_no_permission_says_which_group(tmp_path: Path, device: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    state = probe(4, tmp_path / "kvm.json", device=device)
    assert "no permission to open" in state.reason
    assert "usermod -aG kvm" in state.remedy


@pytest.mark.skipif(shutil.which("qemu-system-x86_64") is None, reason="needs qemu-system-x86_64")
def test_the_firmware_runs_in_a_real_qemu() -> None:
    """Under TCG, which always works: the guest gets to 64-bit mode and out again."""
    program = shutil.which("qemu-system-x86_64")
    assert program is not None
    fd = os.memfd_create("rom")
    try:
        os.pwrite(fd, kvm.rom(), 0)
        arguments = kvm.command(program, f"/proc/self/fd/{fd}", accel="tcg")
        assert kvm.judge(program, arguments, 30, [fd]) == (KvmState(True), True)
        os.pwrite(fd, b"\xf4" * 16, 0)  # a guest that halts is not one that runs
        state, certain = kvm.judge(program, arguments, 2, [fd])
        assert (state.usable, certain) == (False, False)
    finally:
        os.close(fd)


def test_this_machine_gets_an_answer_within_the_deadline(tmp_path: Path) -> None:
    started = time.monotonic()
    state = probe(4.0, tmp_path / "kvm.json")
    assert time.monotonic() - started < 5.5
    assert state.usable or state.reason
    started = time.monotonic()
    assert probe(4.0, tmp_path / "kvm.json") == state
    assert time.monotonic() - started < 0.2
