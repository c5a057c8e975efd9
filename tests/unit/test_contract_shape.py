"""The contract is whole: every call with its name, its parameters by name and order, and what it says by default.

The table is the reference's: OpenStack's ComputeDriver as of 13.0.0. ``?`` marks a parameter with a default.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from typing import Any

import pytest

from cowshed.contract import compute
from cowshed.contract.compute import CAPABILITIES, ComputeDriver
from cowshed.contract.promise import is_fulfilled
from cowshed.driver import LibvirtDriver
from cowshed.errors import UnsupportedOperation
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance
from cowshed.testing import FakeDriver

TABLE = """
init_host host
cleanup_host host
spawn context instance image_meta injected_files admin_password network_info? block_device_info?
destroy context instance network_info? block_device_info? destroy_disks? migrate_data?
cleanup context instance network_info? block_device_info? destroy_disks? migrate_data? destroy_vifs?
delete_instance_files instance
instance_on_disk instance
soft_delete instance
restore instance
set_bootable instance is_bootable

power_on context instance network_info block_device_info?
power_off instance timeout? retry_interval?
reboot context instance network_info reboot_type block_device_info? bad_volumes_callback?
pause instance
unpause instance
suspend context instance
resume context instance network_info block_device_info?
resume_state_on_host_boot context instance network_info block_device_info?
poll_rebooting_instances timeout instances
trigger_crash_dump instance

attach_volume context connection_info instance mountpoint disk_bus? device_type? encryption?
detach_volume connection_info instance mountpoint encryption?
swap_volume old_connection_info new_connection_info instance mountpoint resize_to
get_volume_connector instance
default_root_device_name instance image_meta root_bdm
default_device_names_for_instance instance root_device_name *block_device_lists
get_device_name_for_instance instance bdms block_device_obj
get_instance_disk_info instance block_device_info?
is_supported_fs_format fs_type

snapshot context instance image_id update_task_state
post_interrupted_snapshot_cleanup context instance
quiesce context instance image_meta
unquiesce context instance image_meta
volume_snapshot_create context instance volume_id create_info
volume_snapshot_delete context instance volume_id snapshot_id delete_info

attach_interface instance image_meta vif
detach_interface instance vif
plug_vifs instance network_info
unplug_vifs instance network_info
ensure_filtering_rules_for_instance instance network_info
unfilter_instance instance network_info
filter_defer_apply_on
filter_defer_apply_off
refresh_security_group_rules security_group_id
refresh_instance_security_rules instance
reset_network instance
inject_network_info instance nw_info
macs_for_instance instance
dhcp_options_for_instance instance
network_binding_host_id context instance
deallocate_networks_on_reschedule instance

get_console_output context instance
get_vnc_console context instance
get_spice_console context instance
get_serial_console context instance
get_rdp_console context instance
get_mks_console context instance
get_console_pool_info console_type

migrate_disk_and_power_off context instance dest flavor network_info block_device_info? timeout? retry_interval?
finish_migration context migration instance disk_info network_info image_meta resize_instance block_device_info? power_on?
confirm_migration migration instance network_info
finish_revert_migration context instance network_info block_device_info? power_on?
check_instance_shared_storage_local context instance
check_instance_shared_storage_remote context data
check_instance_shared_storage_cleanup context data
check_can_live_migrate_destination context instance src_compute_info dst_compute_info block_migration? disk_over_commit?
check_can_live_migrate_destination_cleanup context dest_check_data
check_can_live_migrate_source context instance dest_check_data block_device_info?
pre_live_migration context instance block_device_info network_info disk_info migrate_data?
live_migration context instance dest post_method recover_method block_migration? migrate_data?
live_migration_force_complete instance
live_migration_abort instance
rollback_live_migration_at_destination context instance network_info block_device_info destroy_disks? migrate_data?
post_live_migration context instance block_device_info migrate_data?
post_live_migration_at_source context instance network_info
post_live_migration_at_destination context instance network_info block_migration? block_device_info?

rescue context instance network_info image_meta rescue_password
unrescue instance network_info
rebuild context instance image_meta injected_files admin_password bdms detach_block_devices attach_block_devices network_info? recreate? block_device_info? preserve_ephemeral?

get_info instance
get_num_instances
instance_exists instance
list_instances
list_instance_uuids
get_diagnostics instance
get_instance_diagnostics instance
block_stats instance disk_id
get_all_volume_usage context compute_host_bdms
get_all_bw_counters instances
get_per_instance_usage
estimate_instance_overhead instance_info

get_available_resource nodename
get_available_nodes refresh?
node_is_available nodename
get_host_ip_addr
get_host_uptime
get_host_cpu_stats
host_power_action action
host_maintenance_mode host mode
set_host_enabled enabled

manage_image_cache context all_instances
register_event_listener callback
emit_event event
set_admin_password instance new_pass
inject_file instance b64_path b64_contents
change_instance_metadata context instance diff
add_to_aggregate context aggregate host **kwargs
remove_from_aggregate context aggregate host **kwargs
undo_aggregate_operation context op aggregate host set_error?
"""

REFERENCE = {name: tuple(words) for name, *words in (line.split() for line in TABLE.splitlines() if line)}
FUNCTIONS = {
    "block_device_info_get_root": ("block_device_info",),
    "block_device_info_get_swap": ("block_device_info",),
    "swap_is_usable": ("swap",),
    "block_device_info_get_ephemerals": ("block_device_info",),
    "block_device_info_get_mapping": ("block_device_info",),
    "get_block_device_info": ("instance", "block_device_mapping"),
    "driver_dict_from_config": ("named_driver_config", "*args", "**kwargs"),
    "is_xenapi": (),
    "load_compute_driver": ("virtapi", "compute_driver?"),
}

INSTANCE = Instance(uuid="u", name="web", flavor=Flavor(), host="here")


def described(function: Callable[..., Any]) -> tuple[str, ...]:
    """Parameters in the table's form."""
    words = []
    for parameter in inspect.signature(function).parameters.values():
        mark = {parameter.VAR_POSITIONAL: "*", parameter.VAR_KEYWORD: "**"}.get(parameter.kind, "")
        assert parameter.kind is not parameter.KEYWORD_ONLY, parameter
        optional = "" if parameter.default is parameter.empty else "?"
        if parameter.name != "self":
            words.append(f"{mark}{parameter.name}{optional}")
    return tuple(words)


def test_there_are_109_calls_one_property_three_flags_and_nine_functions() -> None:
    assert len(REFERENCE) == 109
    assert len(FUNCTIONS) == 9
    assert isinstance(inspect.getattr_static(ComputeDriver, "need_legacy_block_device_info"), property)
    assert ComputeDriver.capabilities == {
        "has_imagecache": False,
        "supports_recreate": False,
        "supports_migrate_to_same_host": False,
    }
    assert LibvirtDriver.capabilities.keys() == ComputeDriver.capabilities.keys()


def test_the_contract_has_these_calls_and_no_other() -> None:
    calls = {name for name in dir(ComputeDriver) if not name.startswith("_")}
    assert calls - {"capabilities", "need_legacy_block_device_info"} == set(REFERENCE)


def test_each_call_belongs_to_one_capability() -> None:
    names = [name for capability in CAPABILITIES for name in vars(capability) if not name.startswith("_")]
    assert sorted(names) == sorted(REFERENCE)
    assert set(CAPABILITIES) < set(ComputeDriver.__mro__)


@pytest.mark.parametrize("name", REFERENCE)
def test_parameters_have_their_names_and_order(name: str) -> None:
    assert described(getattr(ComputeDriver, name)) == REFERENCE[name]


@pytest.mark.parametrize("driver", [LibvirtDriver, FakeDriver])
@pytest.mark.parametrize("name", REFERENCE)
def test_drivers_take_what_callers_pass_by_name(driver: type[ComputeDriver], name: str) -> None:
    """A driver may make a parameter optional, nothing else."""
    found = described(getattr(driver, name))
    assert [word.rstrip("?") for word in found] == [word.rstrip("?") for word in REFERENCE[name]]
    assert all(
        mine.endswith("?") or not theirs.endswith("?") for mine, theirs in zip(found, REFERENCE[name], strict=True)
    )


@pytest.mark.parametrize("name", REFERENCE)
def test_each_call_is_typed_and_explained(name: str) -> None:
    call = getattr(ComputeDriver, name)
    signature = inspect.signature(call)
    assert signature.return_annotation is not signature.empty
    assert all(one.annotation is not one.empty for one in signature.parameters.values() if one.name != "self")
    assert len(inspect.getdoc(call) or "") > 20


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_module_functions_are_there(name: str) -> None:
    function = getattr(compute, name)
    wanted = FUNCTIONS[name]
    assert [word.rstrip("?") for word in described(function)] == [word.rstrip("?") for word in wanted]
    assert name in compute.__all__
    assert function.__doc__


# --- what the contract says by itself -------------------------------------------------------------


@pytest.fixture
def bare() -> ComputeDriver:
    return ComputeDriver(None)


DEFAULTS: dict[str, Any] = {
    "cleanup_host": None,
    "delete_instance_files": True,
    "instance_on_disk": False,
    "is_supported_fs_format": False,
    "post_interrupted_snapshot_cleanup": None,
    "macs_for_instance": None,
    "dhcp_options_for_instance": None,
    "network_binding_host_id": "here",
    "deallocate_networks_on_reschedule": False,
    "post_live_migration": None,
    "get_per_instance_usage": {},
    "estimate_instance_overhead": {"memory_mb": 0, "disk_gb": 0},
    "manage_image_cache": None,
    "register_event_listener": None,
}
DERIVED = {"emit_event", "get_num_instances", "node_is_available"}  # from other calls, or tried elsewhere


def arguments(name: str) -> dict[str, Any]:
    plain = [word for word in REFERENCE[name] if not word.endswith("?") and not word.startswith("*")]
    return {word: INSTANCE if word == "instance" else None for word in plain}


@pytest.mark.parametrize("name", DEFAULTS)
def test_doing_nothing_is_a_right_answer_of_some(bare: ComputeDriver, name: str) -> None:
    assert getattr(bare, name)(**arguments(name)) == DEFAULTS[name]


@pytest.mark.parametrize("name", sorted(REFERENCE.keys() - DEFAULTS.keys() - DERIVED))
def test_everything_else_says_that_it_is_not_fulfilled(bare: ComputeDriver, name: str) -> None:
    with pytest.raises(NotImplementedError, match=rf"ComputeDriver cannot {name}\b") as caught:
        getattr(bare, name)(**arguments(name))
    assert isinstance(caught.value, UnsupportedOperation)
    assert caught.value.exit_code == 6
    assert not is_fulfilled(ComputeDriver, name)


def test_capabilities_of_the_driver_do_not_take_each_others_helpers() -> None:
    """They are one class in the end: of two methods of one name the first would serve both."""
    found: dict[str, list[str]] = {}
    for one in LibvirtDriver.__mro__:
        if one.__module__.startswith("cowshed.driver"):
            for name, value in vars(one).items():
                if name.startswith("_") and not name.startswith("__") and callable(value):
                    found.setdefault(name, []).append(one.__module__)
    assert found
    assert {name: places for name, places in found.items() if len(places) > 1} == {}


def test_what_is_overridden_is_fulfilled() -> None:
    class Partly(ComputeDriver):
        def list_instances(self) -> list[str]:
            return ["a", "b"]

        def get_available_nodes(self, refresh: bool = False) -> list[str]:
            return ["new"] if refresh else ["old"]

    driver = Partly(None)
    assert is_fulfilled(Partly, "list_instances")
    assert not is_fulfilled(Partly, "list_instance_uuids")
    assert driver.get_num_instances() == 2
    assert driver.node_is_available("new")  # asked again before saying no
    assert not driver.node_is_available("other")
    assert driver.need_legacy_block_device_info


def test_the_real_driver_wants_the_new_shape_and_announces_what_it_can() -> None:
    driver = LibvirtDriver()
    assert not driver.need_legacy_block_device_info
    assert driver.capabilities["has_imagecache"]


def test_the_generated_page_counts_all_of_them() -> None:
    from docs.generate import contract

    page = contract()
    assert "has 109 calls" in page
    assert len(re.findall(r"^\| `\w+` \| (real|later|none) \|", page, re.MULTILINE)) == 109


def test_a_real_call_that_no_test_calls_fails_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    from docs import generate

    monkeypatch.setattr("sys.argv", ["generate.py", "--check"])
    monkeypatch.setattr(generate, "PAGES", {"contract.md": generate.contract})
    monkeypatch.setattr(generate, "unproven", [])
    assert generate.main() == 0, "run make docs"
    monkeypatch.setattr(generate.proofs, "proofs", lambda _: {})
    assert generate.main() == 1
    assert "spawn" in generate.unproven
