"""The doctor looks at a real Ceph cluster, and at what may be wrong with the way to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cowshed.config import Config, HostSection, RbdSection
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import examine_storage
from cowshed.model.host import Finding
from tests.ceph_node import Ceph

pytestmark = pytest.mark.timeout(180)  # the first test of a run starts the cluster


@pytest.fixture
def section(ceph: Ceph, rbd_pool: str) -> RbdSection:
    return RbdSection(pool=rbd_pool, ceph_conf=str(ceph.conf), keyring=str(ceph.keyring))


def examined(tmp_path: Path, section: RbdSection) -> list[Finding]:
    return examine_storage.backends(Rooms(Config(host=HostSection(state=str(tmp_path)), rbd=section)))


def errors(findings: list[Finding]) -> list[str]:
    return [f"{one.subject}: {one.sentence}" for one in findings if one.level == "error"]


def test_a_cluster_in_order(tmp_path: Path, section: RbdSection) -> None:
    found = examined(tmp_path, section)
    assert errors(found) == []
    assert {one.subject for one in found} >= {"Ceph binding", "QEMU and rbd", "Ceph key", "backend rbd"}
    assert [f"the pool {section.pool}" in one.sentence for one in found if one.subject == "backend rbd"] == [True]


def test_a_pool_that_is_not_there(tmp_path: Path, section: RbdSection) -> None:
    (error,) = errors(examined(tmp_path, replace(section, pool="no-such-pool")))
    assert "no-such-pool" in error


def test_a_user_whom_the_cluster_does_not_know(tmp_path: Path, section: RbdSection, ceph: Ceph) -> None:
    keyring = tmp_path / "keyring"
    keyring.write_text(ceph.keyring.read_text().replace("[client.admin]", "[client.stranger]"))
    (error,) = errors(examined(tmp_path, replace(section, user="stranger", keyring=str(keyring))))
    assert "client.stranger" in error


def test_a_keyring_without_the_key(tmp_path: Path, section: RbdSection) -> None:
    keyring = tmp_path / "keyring"
    for content in ("", "nothing of Ceph\n"):
        keyring.write_text(content)
        (error,) = errors(examined(tmp_path, replace(section, keyring=str(keyring))))
        assert f"the keyring {keyring}: it holds no key of client.admin" in error
