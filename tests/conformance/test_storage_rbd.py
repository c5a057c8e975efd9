"""The disk contract on a real Ceph cluster."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from cowshed.config import RbdSection
from cowshed.contract.storage import Backend
from cowshed.disks.rbd import RbdBackend
from cowshed.testing.conformance import BackendConformance
from tests.ceph_node import Ceph

pytestmark = pytest.mark.timeout(180)  # the first test of a run starts the cluster


class TestRbd(BackendConformance):
    @pytest.fixture(autouse=True)
    def made(self, ceph: Ceph, rbd_pool: str, tmp_path: Path) -> None:
        self.place = tmp_path / "place"
        self.place.mkdir()
        self.backend: Backend = RbdBackend(
            tmp_path / "instances", RbdSection(pool=rbd_pool, ceph_conf=str(ceph.conf), user=ceph.user)
        )


class TestRbdNamespace(TestRbd):
    """The same in a namespace of the pool."""

    @pytest.fixture(autouse=True)
    def made(self, ceph: Ceph, rbd_pool: str, tmp_path: Path) -> None:
        namespace = f"ns-{uuid.uuid4().hex[:8]}"
        ceph.rbd("namespace", "create", f"{rbd_pool}/{namespace}")
        self.place = tmp_path / "place"
        self.place.mkdir()
        self.backend: Backend = RbdBackend(
            tmp_path / "instances", RbdSection(pool=rbd_pool, namespace=namespace, ceph_conf=str(ceph.conf))
        )
