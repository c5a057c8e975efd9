"""Maintenance, a host that loses its libvirt, and consoles that QEMU does not have."""

from __future__ import annotations

import uuid
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed.config import Config, HostSection
from cowshed.contract.callbacks import Placed
from cowshed.contract.live_migration import LiveMigration
from cowshed.domain.domain import Domain
from cowshed.domain.metadata import metadata
from cowshed.driver import LibvirtDriver
from cowshed.driver.steps import host_state
from cowshed.errors import HostUnsuitable, InvalidRequest, UnsupportedOperation
from cowshed.hypervisor.link import Link
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.units import MiB

INSTANCE = Instance(uuid="11111111-2222-3333-4444-555555555555", name="web", flavor=Flavor(vcpus=1, memory=64 * MiB))


def guest_of(name: str, state: PowerState = PowerState.RUNNING) -> SimpleNamespace:
    instance = Instance(uuid=str(uuid.uuid4()), name=name, flavor=Flavor(vcpus=1, memory=64 * MiB))
    xml = Domain(name=name, uuid=instance.uuid, metadata=metadata(instance, Image(id="x"), [])).to_xml()
    return SimpleNamespace(name=name, uuid=instance.uuid, state=lambda: state, xml=lambda **_: xml)


class Moving(LibvirtDriver):
    """Its guests go to other hosts, except the stubborn ones."""

    told: list[str]

    def check_can_live_migrate_source(self, context, instance, dest_check_data, *_):  # type: ignore[no-untyped-def]
        return {**dest_check_data, "block_migration": True}

    def live_migration(self, context, instance, dest, post_method, recover_method, block_migration, migrate_data):  # type: ignore[no-untyped-def]
        self.told = [*getattr(self, "told", []), f"{instance.name} to {dest}"]
        if instance.name == "stubborn":
            migrate_data["error"] = "it is stubborn"
            return recover_method(context, instance, dest, migrate_data)
        return post_method(context, instance, dest, block_migration, migrate_data)

    def post_live_migration(self, *_: Any) -> None:
        self.told.append("disconnected")

    def post_live_migration_at_source(self, *_: Any) -> None:
        self.told.append("unplugged")

    def cleanup(self, *_: Any, **__: Any) -> None:
        self.told.append("cleaned")


class There(LiveMigration):
    """The other host."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or name == "told":
            return super().__getattribute__(name)

        def call(*_: Any, **__: Any) -> Any:
            self.told.append(name)
            return {"block_migration": True}

        return call


def draining(tmp_path: Path, kind: type[LibvirtDriver], *guests: SimpleNamespace, **options: Any) -> LibvirtDriver:
    made = kind(config=Config(host=HostSection(state=str(tmp_path))), **options)
    hypervisor = SimpleNamespace(hostname=lambda: "here.example.org", guests=lambda: guests)
    made.rooms.__dict__["hypervisor"] = hypervisor
    return made


def test_a_maintenance_keeps_new_instances_away_until_it_ends(tmp_path: Path) -> None:
    driver = draining(tmp_path, LibvirtDriver, guest_of("off", PowerState.SHUTDOWN))
    for _ in range(2):
        assert driver.host_maintenance_mode("here", True) == "on_maintenance"
    assert driver.host_disabled() == ["it is in maintenance"]
    driver.set_host_enabled(False)
    for _ in range(2):
        assert driver.host_maintenance_mode("here.example.org", False) == "off_maintenance"
    assert driver.host_disabled() == ["somebody disabled it"]
    with pytest.raises(InvalidRequest, match="not there"):
        driver.host_maintenance_mode("there", True)


def test_guests_that_cannot_go_are_named_and_nothing_changes(tmp_path: Path) -> None:
    running = [guest_of("web"), guest_of("db", PowerState.PAUSED), guest_of("off", PowerState.SHUTDOWN)]
    for driver in (
        draining(tmp_path, LibvirtDriver, *running),
        draining(tmp_path, Moving, *running),
        draining(tmp_path, Moving, *running, placement=lambda _: None),
    ):
        with pytest.raises(HostUnsuitable, match=r": db, web$"):
            driver.host_maintenance_mode("here", True)
        assert driver.host_disabled() == []


BEFORE = [
    "check_can_live_migrate_destination",
    "check_can_live_migrate_destination_cleanup",
    "pre_live_migration",
]


def test_guests_go_where_they_are_placed(tmp_path: Path) -> None:
    places = {"web": Placed("there", There()), "db": Placed("elsewhere", There())}
    driver = draining(
        tmp_path, Moving, guest_of("web"), guest_of("db"), placement=lambda instance: places[instance.name]
    )
    assert driver.host_maintenance_mode("here", True) == "on_maintenance"
    after = ["disconnected", "unplugged", "cleaned"]
    assert driver.told == ["web to there", *after, "db to elsewhere", *after]  # type: ignore[attr-defined]
    for place in places.values():
        assert place.driver.told == [*BEFORE, "post_live_migration_at_destination"]  # type: ignore[attr-defined]


def test_a_guest_that_stays_ends_the_maintenance(tmp_path: Path) -> None:
    place = Placed("there", There())
    driver = draining(tmp_path, Moving, guest_of("stubborn"), placement=lambda _: place)
    with pytest.raises(HostUnsuitable, match=r"stubborn could not be moved to there: .*it is stubborn"):
        driver.host_maintenance_mode("here", True)
    assert driver.host_disabled() == []
    assert place.driver.told == [*BEFORE, "rollback_live_migration_at_destination"]  # type: ignore[attr-defined]


def test_a_host_without_libvirt_is_disabled_for_that_reason_alone(tmp_path: Path) -> None:
    driver = draining(tmp_path, LibvirtDriver)
    link = Link()
    driver.rooms.hypervisor.watch_link = link.watch  # type: ignore[method-assign]
    driver.rooms.hypervisor.open = lambda: None  # type: ignore[method-assign]
    host_state.watch_libvirt(driver.rooms)
    driver.set_host_enabled(False)
    link.is_away("gone")
    assert driver.host_disabled() == ["somebody disabled it", "libvirt cannot be reached: gone"]
    driver.set_host_enabled(True)
    assert driver.host_disabled() == ["libvirt cannot be reached: gone"]
    link.is_back()
    assert driver.host_disabled() == []
    link.is_away("gone again")
    host_state.refuse_disabled(driver.rooms)  # libvirt answers now, whoever noticed first
    assert driver.host_disabled() == []


def test_consoles_that_qemu_has_not_say_why(tmp_path: Path) -> None:
    driver = draining(tmp_path, LibvirtDriver)
    with pytest.raises(UnsupportedOperation, match="Hyper-V"):
        driver.get_rdp_console(None, INSTANCE)
    with pytest.raises(UnsupportedOperation, match="VMware"):
        driver.get_mks_console(None, INSTANCE)
    assert driver.get_console_pool_info("vnc") == {"address": "127.0.0.1", "username": "", "password": ""}
    with pytest.raises(UnsupportedOperation, match=r"no spice consoles are served here \(but: vnc\)"):
        driver.get_console_pool_info("spice")
