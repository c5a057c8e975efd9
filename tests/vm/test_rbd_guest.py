"""Guests on disks in Ceph: with a cephx secret, from IPv4 and IPv6 monitors, on bases the pool keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cowshed.config import RbdSection
from cowshed.disks.rbd_bases import BASE
from cowshed.model.flavor import Flavor
from cowshed.tools.rbd import Access, Pool, cluster
from cowshed.units import MiB
from tests.ceph_node import Ceph
from tests.vm.machines import machines

pytestmark = pytest.mark.timeout(400)


def _pool(ceph: Ceph, name: str, user: str = "") -> tuple[RbdSection, Pool]:
    section = RbdSection(pool=name, ceph_conf=str(ceph.conf), user=user)
    return section, Pool(cluster(Access(ceph_conf=str(ceph.conf))), name)


def test_a_guest_boots_from_ceph_and_leaves_nothing(
    libvirt_uri: str, guest_dir: Path, ceph: Ceph, rbd_pool: str
) -> None:
    """As a user with the documented rights, who is not admin."""
    ceph.make_user("guests", mon="profile rbd", osd=f"profile rbd pool={rbd_pool}", mgr="profile rbd")
    section, pool = _pool(ceph, rbd_pool, "guests")
    with machines(libvirt_uri, guest_dir, rbd=section) as house:
        image = house.image()
        flavor = Flavor(vcpus=1, memory=160 * MiB, root=128 * MiB, ephemeral=64 * MiB, swap=32 * MiB)
        instance = house.spawn(image, backend="rbd", flavor=flavor, config_drive=True)
        house.wait(instance, r"cowshed-guest: up")
        said = house.log(instance)
        assert f"disk vda {128 * MiB} rw" in said
        assert f"disk vdb {64 * MiB} rw" in said
        assert "fs vdb ext4 ephemeral0" in said
        assert f"disk vdc {32 * MiB} rw" in said
        xml = house.driver.rooms.hypervisor.guest(instance.uuid).xml()
        assert f"name='{rbd_pool}/{instance.uuid}_disk'" in xml
        assert "<auth username='guests'>" in xml
        assert pool.cluster.key() not in xml
        assert pool.in_use(f"{instance.uuid}_disk")
        imported = pool.images(BASE)
        assert len(imported) == 1
        again = house.instance(image, flavor=flavor, backend="rbd")
        house.start(again, image)
        assert pool.images(BASE) == imported
        assert list((house.state / "cache").glob("[!.]*.json")) == []  # nothing on the local disk
        for one in (again, instance):
            house.driver.destroy(None, one, [])
            assert pool.images(one.uuid) == ()


def test_a_guest_boots_from_an_encrypted_disk_behind_monitors_on_ipv6(
    libvirt_uri: str, guest_dir: Path, other_ceph: Callable[..., Ceph]
) -> None:
    ceph = other_ceph("--ipv6", "--size", "2G")
    section, _ = _pool(ceph, ceph.make_pool())
    with machines(libvirt_uri, guest_dir, rbd=section) as house:
        instance = house.spawn(house.image(), backend="rbd", encrypt=True)
        house.wait(instance, r"cowshed-guest: up")
        xml = house.driver.rooms.hypervisor.guest(instance.uuid).xml()
        assert "<host name='::1'" in xml
        assert "<encryption format='luks'" in xml
