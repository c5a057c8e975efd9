"""The doctor on disk backends: what each check says, and the round over what is configured."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed.config import BACKEND_KEYS, Config, DisksSection, HostSection, LvmSection, RbdSection
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import examine_storage
from cowshed.errors import DeadlineExceeded
from cowshed.host import doctor_storage as doctor
from cowshed.model.host import Finding
from cowshed.testing import MemoryCluster
from cowshed.tools import privilege
from cowshed.units import GiB, TiB
from tests.unit.test_driver_disks import Host


def levels(findings: list[Finding]) -> list[str]:
    return [finding.level for finding in findings]


@pytest.mark.parametrize(
    ("total", "free", "level"),
    [
        (TiB, TiB // 2, "ok"),
        (TiB, TiB // 8, "warning"),
        (TiB, TiB // 40, "error"),
        (10 * GiB, 4 * GiB, "warning"),
        (0, 0, "error"),
    ],
)
def test_room(total: int, free: int, level: str) -> None:
    (finding,) = doctor.room("rbd", "the pool vms", total=total, free=free)
    assert finding.level == level
    assert "the pool vms" in finding.sentence


@pytest.mark.parametrize("used", [0, GiB])
def test_a_small_place_that_is_nearly_empty_is_not_to_be_cleared(used: int) -> None:
    (finding,) = doctor.room("lvm", "the volume group vms", total=4 * GiB, free=4 * GiB - used)
    assert (finding.level, "free in the volume group vms, which is small" in finding.sentence) == ("warning", True)
    assert finding.remedy == "make it larger"
    (finding,) = doctor.room("lvm", "the volume group vms", total=4 * GiB, free=GiB)
    assert "small" not in finding.sentence
    assert "remove disks" in finding.remedy


@pytest.mark.parametrize(
    ("data", "metadata", "level"),
    [(0.5, 0.1, "ok"), (0.85, 0.1, "warning"), (0.1, 0.85, "warning"), (0.97, 0.1, "error"), (0.1, 0.97, "error")],
)
def test_thin_pool(data: float, metadata: float, level: str) -> None:
    (finding,) = doctor.thin_pool("vg/pool", data=data, metadata=metadata)
    assert finding.level == level
    assert f"{data:.0%} of its data" in finding.sentence
    if level != "ok":
        assert ("poolmetadatasize" in finding.remedy) == (metadata > data)


def test_keyring(tmp_path: Path) -> None:
    assert levels(doctor.keyring("", "admin")) == ["ok"]
    gone = doctor.keyring(str(tmp_path / "no"), "vms", error="not found")
    assert "does not exist" in gone[0].sentence
    closed = tmp_path / "closed"
    closed.write_text("")
    assert "not found" in doctor.keyring(str(closed), "vms", error="not found")[0].sentence
    if os.geteuid():
        closed.chmod(0)
        assert "no permission" in doctor.keyring(str(closed), "vms", error="not found")[0].sentence


def test_block_driver(tmp_path: Path) -> None:
    (tmp_path / "block-iscsi.so").write_text("")
    pattern = (str(tmp_path),)
    assert levels(doctor.qemu_block_driver("iscsi", "p", places=pattern)) == ["ok"]
    (finding,) = doctor.qemu_block_driver("rbd", "qemu-block-extra", places=pattern)
    assert finding.level == "error"
    assert "qemu-block-extra" in finding.remedy


def test_programs_and_sudo() -> None:
    (finding,) = doctor.programs("lvm", {"sh": "dash", "no-such-tool": "a-package"})
    assert ("no-such-tool" in finding.sentence, "a-package" in finding.remedy) == (True, True)
    assert levels(doctor.sudo(["lvs"], [], group="vg")) == ["ok"]
    (finding,) = doctor.sudo(["lvs"], ["lvcreate"], group="vg")
    assert (finding.level, "lvcreate" in finding.sentence) == ("error", True)
    assert f"{sys.executable} -m cowshed.tools.privilege $USER vg" in finding.remedy, "not any python3 knows cowshed"


def test_every_example_is_one_that_the_privilege_table_allows() -> None:
    for words in examine_storage.examples("cow-shed", "somebody"):
        assert privilege._allowed(words), words


def test_the_default_must_be_there() -> None:
    assert levels(doctor.default("qcow2", ["qcow2"], BACKEND_KEYS)) == ["ok"]
    (finding,) = doctor.default("rbd", ["qcow2"], BACKEND_KEYS)
    assert finding.level == "error"
    assert "[rbd] pool" in finding.remedy


# --- the round ------------------------------------------------------------------------------------


def rooms_of(tmp_path: Path, **sections: Any) -> Rooms:
    return Rooms(Config(host=HostSection(state=str(tmp_path / "state")), **sections))


def test_files_need_no_check_of_their_own(tmp_path: Path) -> None:
    assert [finding.subject for finding in examine_storage.backends(rooms_of(tmp_path))] == ["default backend"]


def test_a_default_that_is_not_configured_is_an_error(tmp_path: Path) -> None:
    findings = examine_storage.backends(rooms_of(tmp_path, disks=DisksSection(backend="lvm")))
    assert "[lvm] volume_group" in findings[0].remedy


def test_a_place_that_does_not_answer_and_one_that_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = rooms_of(tmp_path)
    cluster = MemoryCluster("far", instances=rooms.instances, size=10)
    rooms.__dict__["backends"] = {**rooms.backends, "far": cluster}
    assert examine_storage.backends(rooms)[-1].level == "warning"

    def hangs(self: Any) -> None:
        raise DeadlineExceeded(what="connecting", seconds=5.0, hint="is the network up?")

    monkeypatch.setattr(MemoryCluster, "capacity", hangs)
    found = examine_storage.backends(rooms)[-1]
    assert (found.level, found.subject, found.remedy) == ("error", "backend far", "is the network up?")


def test_instances_with_disks_on_a_backend_that_has_gone_are_named(tmp_path: Path) -> None:
    (tmp_path / "state").mkdir()
    host = Host(tmp_path / "state")
    who = host.web("rbd")
    host.rooms.__dict__["backends"] = {name: one for name, one in host.rooms.backends.items() if name != "rbd"}
    found = [finding for finding in examine_storage.backends(host.rooms) if finding.subject == "backend rbd"]
    assert [(one.level, who.uuid in one.sentence, one.remedy) for one in found] == [("error", True, "set [rbd] pool")]


def test_a_ceph_that_is_not_there_is_said_to_be_so_in_time(tmp_path: Path) -> None:
    pytest.importorskip("rados", reason="needs python3-rados")
    section = RbdSection(pool="vms", ceph_conf=str(tmp_path / "ceph.conf"), keyring=str(tmp_path / "keyring"))
    rooms = rooms_of(tmp_path, rbd=section)
    found = examine_storage.backends(rooms)
    assert [one.subject for one in found if one.level == "error"] == ["Ceph key"]
    (tmp_path / "keyring").write_text("[client.admin]\n\tkey = AQBnVv1mAAAAABAAd5Yk2Yw3m0m2zqg1y8G8Vw==\n")
    (tmp_path / "ceph.conf").write_text("[global]\nmon_host = 127.0.0.1:1\n")
    rooms = rooms_of(tmp_path, rbd=replace(section, connect_timeout=1.0))
    errors = [one for one in examine_storage.backends(rooms) if one.level == "error"]
    assert [one.subject for one in errors] == ["backend rbd"]
    assert "connecting" in errors[0].sentence or "connect" in errors[0].sentence


def test_lvm_without_its_group_or_its_tools(tmp_path: Path) -> None:
    rooms = rooms_of(tmp_path, lvm=LvmSection(volume_group="no-such-group", thin_pool="pool"))
    errors = [one for one in examine_storage.backends(rooms) if one.level == "error"]
    assert errors
    assert all(one.subject in ("backend lvm", "sudo rules") for one in errors)
