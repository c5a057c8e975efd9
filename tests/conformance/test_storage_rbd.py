"""The disk contract on a real Ceph cluster."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

import pytest

from cowshed.config import RbdSection
from cowshed.contract.storage import Backend, Disk
from cowshed.disks.rbd import RbdBackend
from cowshed.testing.conformance import BackendConformance, EncryptionConformance
from cowshed.testing.keys import MemoryKeys
from cowshed.tools import luks
from cowshed.tools.rbd import ImageSpec
from tests.ceph_node import Ceph

pytestmark = pytest.mark.timeout(180)  # the first test of a run starts the cluster


class TestRbd(BackendConformance):
    ceph: Ceph
    pool: str

    @pytest.fixture(autouse=True)
    def made(self, ceph: Ceph, rbd_pool: str, tmp_path: Path) -> None:
        self.place = tmp_path / "place"
        self.place.mkdir()
        self.ceph, self.pool = ceph, rbd_pool
        self.backend: Backend = RbdBackend(
            tmp_path / "instances",
            RbdSection(pool=rbd_pool, ceph_conf=str(ceph.conf), user=ceph.user),
        )

    def write(self, disk: Disk, offset: int, content: bytes) -> None:
        disk.activate()
        pattern = self.place / "pattern"
        pattern.write_bytes(content)
        name = f"rbd:{disk.source().name}:conf={self.ceph.conf}:id={self.ceph.user}"
        command = f"write -s {pattern} {offset} {len(content)}"
        subprocess.run(["qemu-io", "-f", "raw", "-c", command, name], check=True, capture_output=True, timeout=60)
        disk.deactivate()

    def used(self) -> int:
        """The pool's own figure comes seconds late."""
        pool, _, namespace = self.pool.partition("/")
        where = ["--pool", pool, *(["--namespace", namespace] if namespace else [])]
        images = self.ceph.rbd("du", "--format", "json", *where)["images"]
        return sum(image["used_size"] for image in images)


@pytest.mark.parametrize(
    "promise",
    [
        "test_a_disk_larger_than_its_base_goes_on_with_zeros",
        "test_the_disks_of_an_instance_are_listed",
        "test_an_existing_disk_is_never_taken_over",
        "test_deleting_may_be_repeated",
        "test_extracting_to_every_format_gives_the_same_content",
        "test_disks_made_at_once_are_all_there",
        "test_a_file_is_taken_over",
        "test_a_base_is_added_and_found",
    ],
)
def test_a_namespace_of_a_pool(promise: str, ceph: Ceph, rbd_pool: str, tmp_path: Path) -> None:
    """What differs in one; the rest is the same."""
    namespace = f"ns-{uuid.uuid4().hex[:8]}"
    ceph.rbd("namespace", "create", f"{rbd_pool}/{namespace}")
    suite = TestRbd()
    suite.place = tmp_path / "place"
    suite.place.mkdir()
    suite.ceph, suite.pool = ceph, f"{rbd_pool}/{namespace}"
    section = RbdSection(pool=rbd_pool, namespace=namespace, ceph_conf=str(ceph.conf))
    suite.backend = RbdBackend(tmp_path / "instances", section)
    getattr(suite, promise)()


class TestRbdEncrypted(EncryptionConformance):
    blank_is_zero = False  # a container's sectors decrypt to noise until they are written

    @pytest.fixture(autouse=True)
    def made(self, ceph: Ceph, rbd_pool: str, tmp_path: Path) -> None:
        self.place = tmp_path / "place"
        self.place.mkdir()
        self.keys = MemoryKeys()
        section = RbdSection(pool=rbd_pool, ceph_conf=str(ceph.conf))
        self.rbd = RbdBackend(tmp_path / "instances", section, self.keys, iterations=1000)
        self.backend: Backend = self.rbd

    def key(self, key_id: str) -> bytes:
        """Of a disk, or of the cluster."""
        found = self.rbd.secret(key_id)
        return found[1] if found else self.keys.get(key_id)

    def write(self, disk: Disk, offset: int, content: bytes) -> None:
        disk.activate()
        pattern = self.target()
        pattern.write_bytes(content)
        chain = luks.Chain(disk.source(), self.key)
        with luks.handed(chain.keys) as (words, fds):
            command = ["-c", f"write -s {pattern} {offset} {len(content)}", *words, "--image-opts", chain.options]
            subprocess.run(["qemu-io", *command], check=True, capture_output=True, timeout=60, pass_fds=fds)
        pattern.unlink()
        disk.deactivate()

    def stored(self, disk: Disk) -> bytes:
        spec = ImageSpec.parse(disk.source().name)
        with self.rbd.pool_of(spec).open(spec.image, read_only=True) as image:
            return bytes(image.read(0, image.size()))
