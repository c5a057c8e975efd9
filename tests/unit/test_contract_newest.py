"""The second face: every call of the newest Nova, with its arguments by name and order, over the same driver.

``?`` marks an argument with a default. Calls that are not listed are as in the reference (test_contract_shape.py).
"""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed.config import Config, HostSection
from cowshed.contract.flags import FLAGS
from cowshed.contract.newest import GONE, SAME, NewestFace
from cowshed.contract.providers import inventory
from cowshed.driver import LibvirtDriver
from cowshed.errors import InstanceNotFound, InvalidState, UnsupportedOperation
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance, PowerState, RebootType
from cowshed.model.share import Share
from cowshed.model.vif import Vif
from cowshed.testing import FakeDriver
from cowshed.units import MiB
from tests.unit.test_contract_shape import REFERENCE, described

CHANGED = """
spawn context instance image_meta injected_files admin_password allocations network_info? block_device_info? power_on? accel_info?
destroy context instance network_info block_device_info? destroy_disks? destroy_secrets?
cleanup context instance network_info block_device_info? destroy_disks? migrate_data? destroy_vifs? destroy_secrets?
rebuild context instance image_meta injected_files admin_password allocations bdms detach_block_devices attach_block_devices network_info? evacuate? block_device_info? preserve_ephemeral? accel_uuids? reimage_boot_volume?
rescue context instance network_info image_meta rescue_password block_device_info share_info
unrescue context instance
power_on context instance network_info block_device_info? accel_info? share_info?
reboot context instance network_info reboot_type block_device_info? bad_volumes_callback? accel_info? share_info?
resume context instance network_info block_device_info? share_info?
resume_state_on_host_boot context instance network_info share_info block_device_info?
get_info instance use_cache?
detach_volume context connection_info instance mountpoint encryption?
swap_volume context old_connection_info new_connection_info instance mountpoint resize_to
attach_interface context instance image_meta vif
detach_interface context instance vif
finish_migration context migration instance disk_info network_info image_meta resize_instance allocations block_device_info? power_on? share_info?
confirm_migration context migration instance network_info
finish_revert_migration context instance network_info migration block_device_info? power_on? share_info?
pre_live_migration context instance block_device_info network_info disk_info migrate_data
"""

NEW = """
extend_volume context connection_info instance requested_size
cleanup_live_migration_destination_check context dest_check_data
check_source_migrate_data_at_dest context instance migrate_data migration limits allocs
post_claim_migrate_data context instance migrate_data claim
rollback_live_migration_at_source context instance migrate_data
cache_image context image_id
update_provider_tree provider_tree nodename allocations?
capabilities_as_traits
get_nodenames_by_uuid refresh?
is_node_deleted nodename
process_instances_at_startup context instances
prepare_for_spawn instance
failed_spawn_cleanup instance
prepare_networks_before_block_device_mapping instance network_info
clean_networks_preparation instance network_info
manages_network_binding_host_id
power_update_event instance target_power_state
mount_share context instance share_mapping
umount_share context instance share_mapping
is_share_mounted context instance share_mapping
cleanup_lingering_instance_resources instance
get_instance_driver_metadata instance network_info
"""


def table(text: str) -> dict[str, tuple[str, ...]]:
    return {line.split()[0]: tuple(line.split()[1:]) for line in text.splitlines() if line}


NEWEST = {
    **{name: words for name, words in REFERENCE.items() if name not in GONE},
    **table(CHANGED),
    **table(NEW),
}


@pytest.fixture
def core() -> FakeDriver:
    return FakeDriver()


@pytest.fixture
def face(core: FakeDriver) -> NewestFace:
    return NewestFace(core)


def instance_of(name: str = "web") -> Instance:
    return Instance("11111111-2222-3333-4444-555555555555", name, Flavor(vcpus=1, memory=64 * MiB), host="here")


def running(face: NewestFace, core: FakeDriver, **more: Any) -> Instance:
    instance = instance_of()
    face.spawn(None, instance, core.images.add("", bytes(MiB)), [], None, {}, network_info=[], **more)
    return instance


def test_23_calls_are_gone_19_have_changed_and_22_are_new() -> None:
    assert len(GONE) == 23
    assert REFERENCE.keys() > GONE
    assert len(table(CHANGED)) == 19
    assert len(table(NEW)) == 22
    assert len(SAME) == 67
    calls = {name for name in dir(NewestFace) if not name.startswith("_")}
    assert calls - {"capabilities"} == NEWEST.keys()


@pytest.mark.parametrize("name", NEWEST)
def test_arguments_have_their_names_and_order(name: str) -> None:
    found = described(getattr(NewestFace, name))
    assert tuple(word for word in found if word != "cls") == NEWEST[name]


@pytest.mark.parametrize("name", table(CHANGED))
def test_what_is_handed_on_is_what_the_reference_takes(name: str) -> None:
    """Each changed call reaches the core once, in the core's own signature, with what was given by name."""
    if name == "rebuild":
        given = {"evacuate": True, "reimage_boot_volume": False, "accel_uuids": []}
    else:
        given = {}
    for word in NEWEST[name]:
        plain = word.rstrip("?")
        if plain not in ("accel_info", "share_info", "accel_uuids", "reimage_boot_volume", "evacuate", "power_on"):
            given.setdefault(plain, plain)
    heard: list[tuple[tuple[Any, ...], dict[str, Any]]] = []
    recorder = SimpleNamespace(**{name: lambda *args, **more: heard.append((args, more))})
    needs = {word.rstrip("?") for word in NEWEST[name] if not word.endswith("?")}
    getattr(NewestFace(recorder), name)(**given, **({"share_info": None} if "share_info" in needs else {}))  # type: ignore[arg-type]
    ((args, more),) = heard
    reference = inspect.signature(getattr(LibvirtDriver, name))
    bound = reference.bind(None, *args, **more).arguments
    renamed = {"recreate": True}
    for word, value in list(bound.items())[1:]:
        if word == "power_on":
            assert value is True
        elif not (name == "unrescue" and word == "network_info"):
            assert value == renamed.get(word, word)


def test_it_drives_a_machine(face: NewestFace, core: FakeDriver) -> None:
    instance = running(face, core)
    assert face.get_info(instance, use_cache=False).state == PowerState.RUNNING
    face.attach_interface(None, instance, None, Vif("a", "52:54:00:00:00:01"))
    face.reboot(None, instance, [], RebootType.HARD, accel_info=[], share_info=[])
    face.detach_interface(None, instance, Vif("a", "52:54:00:00:00:01"))
    assert face.list_instances() == ["web"]
    face.destroy(None, instance, [], destroy_secrets=True)
    assert not face.instance_exists(instance)
    with pytest.raises(InstanceNotFound):
        face.get_info(instance)


def test_it_may_be_made_and_not_started(face: NewestFace, core: FakeDriver) -> None:
    assert face.get_info(running(face, core, power_on=False)).state == PowerState.SHUTDOWN


def test_what_the_core_has_not_is_refused_before_anything_is_done(face: NewestFace, core: FakeDriver) -> None:
    with pytest.raises(UnsupportedOperation, match="accelerators"):
        running(face, core, accel_info=[{"device": 1}])
    assert not core.guests
    instance = running(face, core)
    core.calls.clear()
    refused = [
        lambda: face.reboot(None, instance, [], "HARD", accel_info=["gpu"]),
        lambda: face.rebuild(None, instance, None, [], "", {}, [], print, print, reimage_boot_volume=True),
        lambda: face.power_update_event(instance, 1),
        lambda: face.get_mks_console(None, instance),
    ]
    for call in refused:
        with pytest.raises(UnsupportedOperation):
            call()
    assert not core.calls


def test_a_core_without_shares_refuses_them_before_anything_is_done() -> None:
    heard: list[str] = []
    core = SimpleNamespace(power_on=lambda *_: heard.append("power_on"))
    face, instance, share = NewestFace(core), instance_of(), Share("1", "data", "/usr")  # type: ignore[arg-type]
    refused = [
        lambda: face.power_on(None, instance, [], share_info=[share]),
        lambda: face.resume(None, instance, [], share_info=[share]),
        lambda: face.reboot(None, instance, [], "HARD", share_info=[share]),
        lambda: face.rescue(None, instance, [], None, "", None, [share]),
        lambda: face.resume_state_on_host_boot(None, instance, [], [share]),
        lambda: face.finish_migration(None, None, instance, "", [], None, False, {}, share_info=[share]),
        lambda: face.finish_revert_migration(None, instance, [], None, share_info=[share]),
        lambda: face.mount_share(None, instance, share),
    ]
    for call in refused:
        with pytest.raises(UnsupportedOperation, match="virtiofs"):
            call()
    assert not heard
    face.power_on(None, instance, [], share_info=[])
    assert heard == ["power_on"]
    assert face.umount_share(None, instance, share)
    assert not face.is_share_mounted(None, instance, share)


def test_shares_are_given_with_a_start_and_stay_until_others_are(
    face: NewestFace, core: FakeDriver, tmp_path: Path
) -> None:
    instance = running(face, core)
    first, second = Share("1", "data", str(tmp_path)), Share("2", "more", "/usr")
    face.power_off(instance)
    face.mount_share(None, instance, first)
    assert face.is_share_mounted(None, instance, first)
    assert not face.is_share_mounted(None, instance, second)
    face.power_on(None, instance, [], share_info=[first, second])
    assert [one.status for one in core.shares(instance)] == ["active", "active"]
    with pytest.raises(InvalidState):
        face.umount_share(None, instance, second)
    face.reboot(None, instance, [], RebootType.HARD)  # nothing is said of them
    assert [one.tag for one in core.shares(instance)] == ["data", "more"]
    face.reboot(None, instance, [], RebootType.HARD, share_info=[first])
    assert [one.tag for one in core.shares(instance)] == ["data"]
    face.reboot(None, instance, [], RebootType.HARD, share_info=[])
    assert core.shares(instance) == ()
    assert face.umount_share(None, instance, first)
    assert face.capabilities["supports_virtio_fs"]


def test_new_calls_answer(face: NewestFace, core: FakeDriver) -> None:
    assert face.get_nodenames_by_uuid() == face.get_nodenames_by_uuid(refresh=True)
    assert list(face.get_nodenames_by_uuid().values()) == ["fake"]
    assert not face.is_node_deleted("fake")
    data = {"kept": True}
    assert face.post_claim_migrate_data(None, None, data, None) is data
    assert face.check_source_migrate_data_at_dest(None, None, data, None, None, None) is data
    assert face.cache_image(None, core.images.add("x", b"x").id) is False
    assert NewestFace.get_instance_driver_metadata(None, []) == {}
    with pytest.raises(UnsupportedOperation):
        face.cleanup_live_migration_destination_check(None, {})


def test_flags_are_35_and_true(face: NewestFace, tmp_path: Path) -> None:
    assert len(FLAGS) == 35
    assert face.capabilities.keys() == FLAGS.keys()
    assert face.capabilities["supports_extend_volume"]
    driver = LibvirtDriver(config=Config(host=HostSection(state=str(tmp_path))))
    driver.rooms.__dict__["capabilities"] = SimpleNamespace(
        firmwares=(SimpleNamespace(enrolled=True),), tpm_versions=(), session=True
    )
    flags = NewestFace(driver).capabilities
    assert flags.keys() == FLAGS.keys()
    assert flags["supports_image_type_qcow2"]
    assert not flags["supports_image_type_vmdk"]
    assert flags["supports_secure_boot"]
    assert not flags["supports_vtpm"]
    assert flags["supports_bfv_rescue"]
    assert flags["supports_evacuate"]
    assert not flags["supports_pcpus"]
    assert all(isinstance(value, bool) for value in flags.values())


def test_a_host_keeps_its_uuid(tmp_path: Path) -> None:
    config = Config(host=HostSection(state=str(tmp_path)))
    assert LibvirtDriver(config=config).node_uuid() == LibvirtDriver(config=config).node_uuid()


class Tree:
    """As much of a provider tree as a driver touches."""

    def __init__(self) -> None:
        self.known = SimpleNamespace(
            inventory={"VCPU": {"allocation_ratio": 16.0, "reserved": 2}}, traits={"CUSTOM_GOLD"}
        )

    def data(self, name: str) -> SimpleNamespace:
        return self.known

    def update_inventory(self, name: str, inventory: dict[str, Any]) -> None:
        self.known.inventory = inventory

    def update_traits(self, name: str, traits: set[str]) -> None:
        self.known.traits = traits


def test_a_provider_tree_is_told_what_there_is(face: NewestFace) -> None:
    tree = Tree()
    tree.known.traits |= {"COMPUTE_TRUSTED_CERTS"}
    face.update_provider_tree(tree, "fake")
    assert tree.known.inventory["VCPU"]["total"] == 16
    assert tree.known.inventory["VCPU"]["allocation_ratio"] == 16.0, "the operator's stays"
    assert tree.known.inventory["VCPU"]["reserved"] == 2
    assert tree.known.inventory["MEMORY_MB"]["total"] == 64 << 10
    assert "CUSTOM_GOLD" in tree.known.traits
    assert "COMPUTE_VOLUME_EXTEND" in tree.known.traits
    assert "COMPUTE_TRUSTED_CERTS" not in tree.known.traits, "what does not hold is taken back"


def test_nothing_is_offered_that_is_not_there() -> None:
    assert inventory({"vcpus": 2, "memory_mb": 1, "local_gb": 0}, {}).keys() == {"VCPU", "MEMORY_MB"}
