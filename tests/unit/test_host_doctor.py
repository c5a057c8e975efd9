"""The doctor: each check, in health and out of it; whatever is wrong comes with a remedy."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cowshed.host import doctor, facts
from cowshed.host.kvm import KvmState
from cowshed.model.host import Finding, Firmware
from cowshed.tools import filesystem, reflink, run, virtiofsd
from cowshed.units import GiB, MiB


@pytest.fixture
def without_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find", lambda tool: None)


@pytest.fixture
def with_tools(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "find", lambda tool: f"/usr/bin/{tool}")


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


@pytest.mark.usefixtures("without_tools")
def test_missing_programs_name_their_packages() -> None:
    assert doctor.emulator("/usr/bin/qemu-system-x86_64")[0].remedy == "sudo apt install qemu-system-x86"
    assert doctor.emulator(None)[0].level == "error"
    assert doctor.qemu_img()[0].remedy == "sudo apt install qemu-utils"
    assert {finding.remedy for finding in doctor.filesystem_tools()} >= {"sudo apt install xfsprogs"}
    assert set(levels(doctor.filesystem_tools())) == {"warning"}
    assert doctor.user_network(passt=True)[0].remedy == "sudo apt install passt"


@pytest.mark.usefixtures("with_tools")
def test_a_healthy_host() -> None:
    findings = [
        *doctor.emulator("qemu", (8, 0, 0)),
        *doctor.qemu_img(),
        *doctor.filesystem_tools(),
        *doctor.user_network(passt=True),
        *doctor.user_network(passt=False),
        *doctor.libvirt("qemu:///session", version=(9, 0, 0)),
        *doctor.firmware([Firmware(Path("/usr/share/OVMF/OVMF_CODE_4M.fd"), Path("/x"), True, True)]),
        *doctor.tpm(("1.2", "2.0")),
        *doctor.default_network("active", session=False),
        *doctor.kvm(KvmState(True)),
    ]
    assert set(levels(findings)) == {"ok"}
    assert all(not finding.remedy for finding in findings)
    assert "OVMF_CODE_4M.fd" in str(findings)


@pytest.mark.usefixtures("with_tools")
def test_old_versions_are_warned_of() -> None:
    assert "6.2.0 is older than 7.2.0" in doctor.emulator("qemu", (6, 2, 0))[0].sentence
    assert "8.10.1 is older than 9.0.0" in doctor.libvirt("qemu:///system", version=(8, 10, 1))[0].sentence


def test_a_kvm_that_does_not_run_guests() -> None:
    state = KvmState(False, "a test guest under KVM hangs", "mend it")
    (finding,) = doctor.kvm(state)
    assert finding == Finding(
        "warning",
        "KVM",
        "a test guest under KVM hangs; instances run under TCG (emulation), many times slower",
        "mend it",
    )
    assert doctor.kvm(state, configured="kvm")[0].level == "error"
    (finding,) = doctor.kvm(KvmState(False, "qemu is not installed", "install it", known=False))
    assert (finding.level, finding.remedy) == ("warning", "install it")
    assert "TCG" not in finding.sentence, "nothing runs under it either"


def test_libvirt_that_cannot_be_reached() -> None:
    (finding,) = doctor.libvirt("qemu:///system", error="no socket")
    assert (finding.level, finding.sentence) == ("error", "no socket")
    assert "libvirt-daemon-system" in finding.remedy
    assert doctor.libvirt("qemu:///session", error="x", hint="start it")[0].remedy == "start it"


def test_without_a_binding_the_daemon_is_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the first round already names it."""
    monkeypatch.setattr(doctor, "bound", lambda: False)
    assert doctor.binding()[0].level == "error"
    monkeypatch.setattr(run, "find", lambda tool: None)
    assert doctor.daemon("qemu:///session")[0].remedy == "sudo apt install libvirt-daemon"
    assert doctor.daemon("qemu:///system")[0].remedy == "sudo apt install libvirt-daemon-system"
    assert doctor.daemon("qemu+ssh://far/system") == [], "it is not this host's"
    monkeypatch.setattr(run, "find", lambda tool: "/usr/sbin/libvirtd" if tool == "libvirtd" else None)
    assert doctor.daemon("qemu:///session") == []


def test_shares_need_virtiofsd_and_a_user_subordinate_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtiofsd, "find", lambda: None)
    (found,) = doctor.shares(session=True)
    assert (found.level, found.remedy) == ("warning", "sudo apt install qemu-system-common")
    monkeypatch.setattr(virtiofsd, "find", lambda: "/usr/lib/qemu/virtiofsd")
    monkeypatch.setattr(virtiofsd, "unable", lambda: "no numbers")
    (found,) = doctor.shares(session=True)
    assert (found.level, "no numbers" in found.sentence) == ("warning", True)
    assert "usermod" in found.remedy
    assert levels(doctor.shares(session=False)) == ["ok"], "the system's libvirt starts it as root"
    monkeypatch.setattr(virtiofsd, "unable", lambda: "")
    assert levels(doctor.shares(session=True)) == ["ok"]


def test_networks() -> None:
    assert doctor.default_network(None, session=True) == []
    assert "net-start default" in doctor.default_network("inactive", session=False)[0].remedy
    assert "net-define" in doctor.default_network(None, session=False)[0].remedy


def test_missing_modules_are_errors_with_their_project() -> None:
    (finding,) = doctor.modules({"no_such_module": ("the-project", "the thing")})
    assert (finding.level, finding.remedy) == ("error", "pip install the-project")
    assert levels(doctor.modules({"json": ("x", "y")})) == ["ok"]


def test_missing_firmware_is_a_warning() -> None:
    assert doctor.firmware([])[0].remedy == "sudo apt install ovmf"
    (finding,) = doctor.firmware([Firmware(Path("/code"), Path("/x"), secure_boot=True)])
    assert (finding.level, finding.remedy) == ("warning", "sudo apt install ovmf")
    assert "secure boot" in finding.sentence


def test_a_missing_tpm_emulator_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.run, "find", lambda name: None)
    (finding,) = doctor.tpm(())
    assert (finding.level, finding.remedy) == ("warning", "sudo apt install swtpm swtpm-tools")
    assert "swtpm is not installed" in finding.sentence
    monkeypatch.setattr(doctor.run, "find", lambda name: f"/usr/bin/{name}")
    assert "libvirt" in doctor.tpm(())[0].sentence


@pytest.mark.parametrize(("free", "level"), [(100 * GiB, "ok"), (3 * GiB, "warning"), (100 * MiB, "error")])
def test_free_space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, free: int, level: str) -> None:
    monkeypatch.setattr(facts, "disk", lambda path: facts.Space(200 * GiB, free, 0))
    (finding,) = doctor.free_space(tmp_path)
    assert finding.level == level
    assert bool(finding.remedy) is (level != "ok")


def test_a_state_directory_that_qemu_cannot_enter(tmp_path: Path) -> None:
    state = tmp_path / "a" / "state"
    state.mkdir(parents=True)
    for place in (tmp_path, tmp_path / "a", state):
        place.chmod(0o711)
    assert doctor._closed_to(state, 0, 0) is None
    (tmp_path / "a").chmod(0o700)
    found = doctor._closed_to(state, 64055, 64055)
    assert found is not None
    assert state.is_relative_to(found)
    (finding,) = doctor.state_directory(state, qemu_user=(64055, 64055))
    assert finding.level == "error"
    assert "cannot enter" in finding.sentence
    assert "chmod o+x" in finding.remedy
    assert doctor._closed_to(state, os.getuid(), os.getgid()) is None


def test_a_state_directory_we_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert levels(doctor.state_directory(tmp_path / "new")) == ["ok"]
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    (finding,) = doctor.state_directory(tmp_path)
    assert finding.sentence == f"no permission to write {tmp_path}"
    assert finding.remedy == f"chmod u+rwx {tmp_path}"
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    assert "chown" in doctor.state_directory(tmp_path)[0].remedy
    (finding,) = doctor.state_directory(tmp_path / "my state")
    assert finding.remedy.endswith("/my state'"), "what is pasted into a shell shall not name two places"


def test_a_state_directory_we_cannot_enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The round goes on: it was ended by Python's PermissionError."""
    refuse_below(tmp_path / "state", monkeypatch)
    assert facts.disk(tmp_path / "state/instances").total
    assert filesystem.free_space(tmp_path / "state/instances")
    assert reflink.possible(tmp_path / "state/instances") in (True, False)


def refuse_below(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a user who may not enter; root may."""
    place.mkdir(mode=0)
    real = os.stat

    def stat(path: Any, **options: Any) -> os.stat_result:
        if place in Path(path).parents:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, **options)

    monkeypatch.setattr(os, "stat", stat)


def test_leftovers_are_counted() -> None:
    assert doctor.leftovers([]) == []
    (finding,) = doctor.leftovers([f"thing-{number}" for number in range(8)])
    assert "thing-4 and 3 more" in finding.sentence


@pytest.mark.parametrize(
    "check",
    [
        doctor.binding,
        doctor.modules,
        lambda: doctor.reflinks(Path("/x"), works=True),
        lambda: doctor.reflinks(Path("/x"), works=False),
    ],
)
def test_checks_that_need_no_remedy(check: Callable[[], list[Finding]]) -> None:
    assert [finding for finding in check() if finding.level != "ok" and not finding.remedy] == []


def test_the_local_round_has_a_remedy_for_all_that_is_wrong(tmp_path: Path) -> None:
    findings = doctor.local(state=tmp_path, kvm_state=KvmState(False, "there is no /dev/kvm", "load it"))
    assert {finding.subject for finding in findings} >= {"QEMU", "qemu-img", "KVM", "disk space", "Python modules"}
    assert all(finding.remedy for finding in findings if finding.level != "ok")
