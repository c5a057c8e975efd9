"""A guest boots from volumes, through the driver, as who runs the tests: root, or a user whom the nodes belong to."""

from __future__ import annotations

from pathlib import Path

from cowshed.config import DisksSection, LvmSection
from cowshed.model.flavor import Flavor
from cowshed.tools import block, lvm
from cowshed.units import MiB
from tests.lvm.conftest import GROUP, POOL
from tests.vm.machines import machines


def test_a_guest_boots_from_a_clone_of_a_kept_base(libvirt_uri: str, guest_dir: Path) -> None:
    section = LvmSection(volume_group=GROUP, thin_pool=POOL)
    with machines(libvirt_uri, guest_dir, disks=DisksSection(backend="lvm"), lvm=section) as house:
        image = house.image()
        instance = house.spawn(image, flavor=Flavor(vcpus=1, memory=160 * MiB, root=128 * MiB, swap=16 * MiB))
        volume = lvm.disk_volume(GROUP, instance.uuid, "disk")
        assert lvm.volumes(GROUP)[volume].origin.startswith("cowshed-base-")
        house.wait(instance, r"cowshed-guest: up", timeout=200)
        said = house.log(instance)
        assert f"disk vda {128 * MiB} rw" in said
        assert f"disk vdb {16 * MiB} rw" in said
        assert lvm.volumes(GROUP)[volume].open
        house.driver.power_off(instance, timeout=60, retry_interval=10)
        assert block.size(lvm.node(GROUP, volume)) == 128 * MiB
        house.driver.destroy(None, instance, [])
        assert not [name for name in lvm.volumes(GROUP) if name.startswith(instance.uuid)]
