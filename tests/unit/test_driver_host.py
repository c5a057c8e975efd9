"""What a driver keeps of its host over restarts: enabled or not, its pools; and acts on the host itself."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed.config import Config, HostSection
from cowshed.driver import LibvirtDriver
from cowshed.driver.steps import host_state, marks
from cowshed.errors import DataCorrupt, HostUnsuitable, InvalidRequest, InvalidState, ToolFailed, UnsupportedOperation
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance
from cowshed.units import MiB

INSTANCE = Instance(uuid="11111111-2222-3333-4444-555555555555", name="web", flavor=Flavor(vcpus=1, memory=64 * MiB))


def driver_of(tmp_path: Path, **host: Any) -> LibvirtDriver:
    made = LibvirtDriver(config=Config(host=HostSection(state=str(tmp_path), **host)))
    made.rooms.__dict__["hypervisor"] = SimpleNamespace(hostname=lambda: "here.example.org")
    return made


def test_a_disabled_host_stays_so_and_takes_no_instance(tmp_path: Path) -> None:
    assert driver_of(tmp_path).set_host_enabled(False) == "disabled"
    again = driver_of(tmp_path)
    assert again.host_disabled() == ["somebody disabled it"]
    with pytest.raises(HostUnsuitable, match="disabled"):
        again.spawn(None, INSTANCE, Image(id="x"), [], None)
    assert not (tmp_path / "instances").exists()
    assert again.set_host_enabled(True) == "enabled"
    assert driver_of(tmp_path).host_disabled() == []


class ControlPlane:
    def __init__(self) -> None:
        self.told: list[tuple[str, bool]] = []

    def update_compute_provider_status(self, context: Any, provider_uuid: str, *, enabled: bool) -> None:
        self.told.append((provider_uuid, enabled))
        if not enabled:
            raise RuntimeError("the control plane is away")


def test_the_control_plane_is_told_whether_instances_are_taken(tmp_path: Path) -> None:
    plane = ControlPlane()
    driver = LibvirtDriver(plane, config=Config(host=HostSection(state=str(tmp_path))))
    assert driver.set_host_enabled(False) == "disabled"
    assert driver.set_host_enabled(True) == "enabled"
    host_state.disable(driver.rooms, host_state.MAINTENANCE, "maintenance")
    driver.set_host_enabled(True)
    assert plane.told == [(driver.node_uuid(), False), (driver.node_uuid(), True), (driver.node_uuid(), False)]


def test_the_end_of_a_maintenance_does_not_enable_what_somebody_disabled(tmp_path: Path) -> None:
    driver = driver_of(tmp_path)
    host_state.disable(driver.rooms, host_state.MAINTENANCE, "maintenance")
    driver.set_host_enabled(False)
    host_state.enable(driver.rooms, host_state.MAINTENANCE)
    assert driver.host_disabled() == ["somebody disabled it"]


def test_a_damaged_record_is_said_to_be_one(tmp_path: Path) -> None:
    driver = driver_of(tmp_path)
    driver.set_host_enabled(False)
    (tmp_path / "host" / host_state.FILE).write_text("[")
    with pytest.raises(DataCorrupt):
        driver.host_disabled()


def test_marks_add_up_and_go(tmp_path: Path) -> None:
    rooms = driver_of(tmp_path).rooms
    marks.refuse_marked(rooms, INSTANCE)
    marks.mark(rooms, INSTANCE.uuid, marks.Mark.SOFT_DELETED)
    marks.mark(rooms, INSTANCE.uuid, marks.Mark.NOT_BOOTABLE)
    marks.unmark(rooms, INSTANCE.uuid, marks.Mark.SOFT_DELETED)
    assert marks.marks(rooms, INSTANCE.uuid) == {marks.Mark.NOT_BOOTABLE}
    with pytest.raises(InvalidState) as caught:
        marks.refuse_marked(rooms, INSTANCE)
    assert "set_bootable" in (caught.value.hint or "")
    marks.unmark(rooms, INSTANCE.uuid, marks.Mark.NOT_BOOTABLE)
    marks.refuse_marked(rooms, INSTANCE)


def test_the_host_is_shut_down_only_where_that_is_allowed_and_by_the_command_that_is_configured(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperation, match="not allowed"):
        driver_of(tmp_path).host_power_action("shutdown")
    done = tmp_path / "done"
    driver = driver_of(tmp_path, power_actions=True, shutdown_command=("touch", str(done)), reboot_command=("false",))
    assert "shutdown" in driver.host_power_action("shutdown")
    assert done.exists()
    with pytest.raises(ToolFailed):
        driver.host_power_action("reboot")
    with pytest.raises(UnsupportedOperation, match="runs no driver"):
        driver.host_power_action("startup")
    with pytest.raises(InvalidRequest):
        driver.host_power_action("explode")


class Pool(SimpleNamespace):
    def update_metadata(self, changes: dict[str, str]) -> None:
        self.metadata.update(changes)


def test_membership_of_pools_is_kept(tmp_path: Path) -> None:
    pool = Pool(id=7, name="fast", metadata={"disk": "nvme"}, hosts=[])
    driver = driver_of(tmp_path)
    driver.add_to_aggregate(None, pool, "here")
    driver.add_to_aggregate(None, {"id": 8, "name": "slow"}, "here.example.org")
    assert driver_of(tmp_path).aggregates() == {
        "7": {"name": "fast", "metadata": {"disk": "nvme"}},
        "8": {"name": "slow", "metadata": {}},
    }
    with pytest.raises(UnsupportedOperation):
        driver.add_to_aggregate(None, pool, "elsewhere")
    with pytest.raises(InvalidRequest):
        driver.add_to_aggregate(None, {}, "here")
    driver.remove_from_aggregate(None, pool, "here")
    driver.remove_from_aggregate(None, pool, "here")
    assert set(driver.aggregates()) == {"8"}


@pytest.mark.parametrize(
    ("fails", "set_error", "broken"), [(False, True, True), (False, False, False), (True, False, True)]
)
def test_a_change_of_a_pool_is_taken_back(tmp_path: Path, fails: bool, set_error: bool, broken: bool) -> None:
    pool, called = Pool(id=7, name="fast", metadata={}), []

    def back(host: str) -> None:
        called.append(host)
        if fails:
            raise RuntimeError("it went wrong too")

    driver_of(tmp_path).undo_aggregate_operation(None, back, pool, "here", set_error)
    assert called == ["here"]
    assert (pool.metadata.get("operational_state") == "error") is broken


# --- does another host see the same directory? ----------------------------------------------------


def test_a_file_shows_whether_storage_is_shared(tmp_path: Path) -> None:
    driver, same = driver_of(tmp_path / "one"), driver_of(tmp_path / "one")
    assert driver.check_instance_shared_storage_local(None, INSTANCE) is None  # there is no directory
    driver.rooms.directory(INSTANCE.uuid).create()
    data = driver.check_instance_shared_storage_local(None, INSTANCE)
    assert same.check_instance_shared_storage_remote(None, data) is True
    driver.check_instance_shared_storage_cleanup(None, data)
    driver.check_instance_shared_storage_cleanup(None, data)
    driver.check_instance_shared_storage_cleanup(None, None)
    assert same.check_instance_shared_storage_remote(None, data) is False
    assert not list(driver.rooms.directory(INSTANCE.uuid).path.iterdir())


@pytest.mark.parametrize(
    "name", ["/etc/passwd", "instances/../../x", "{instances}/../secret", "{instances}/u/disk", ""]
)
def test_another_host_makes_us_look_nowhere_else(tmp_path: Path, name: str) -> None:
    driver = driver_of(tmp_path)
    data = {"filename": name.format(instances=tmp_path / "instances")}
    with pytest.raises(InvalidRequest):
        driver.check_instance_shared_storage_remote(None, data)
    with pytest.raises(InvalidRequest):
        driver.check_instance_shared_storage_cleanup(None, data)
