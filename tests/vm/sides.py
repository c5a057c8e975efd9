"""Two drivers on two real libvirt hosts, and what the tests of live migration do with them."""

from __future__ import annotations

import dataclasses
import json
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from cowshed.config import Config, ConsoleSection, GuestSection, MigrationSection
from cowshed.driver.steps import transit
from cowshed.hypervisor import migrate
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.model.vif import Vif
from cowshed.units import MiB
from tests.vm.machines import Machines
from tests.vm.two_hosts import Host

# Counts aloud, and on its disk.
TICKER = """#!/bin/sh
(i=0; while :; do i=$((i+1)); echo "tick $i" >/dev/console; echo $i >/data/ticks; sync; usleep 300000; done) &
"""


class Side(Machines):
    """A driver on one of the two hosts."""

    host: Host

    @property
    def uuids(self) -> list[str]:
        return self.driver.list_instance_uuids()

    def directory(self, instance: Instance) -> Path:
        return self.state / "instances" / instance.uuid

    def reconfigure(self, **sections: Any) -> None:
        """From now on its driver has this configuration; ``config`` too."""
        self.config = dataclasses.replace(self.config, **sections)
        self.driver.cleanup_host("here")
        self.driver = self.reopened()


def side(
    host: Host, guest_dir: Path, state: str = "state", *, more: dict[str, Any] | None = None, **migration: Any
) -> Side:
    """``more``: other sections of its configuration."""
    place = host.place / state
    place.mkdir(exist_ok=True)
    settings = {"uri": "qemu+tcp://%s/system", "unsafe": True, "stall": 60.0} | migration
    made = Side(
        host.uri,
        guest_dir,
        place,
        **{
            "guest": GuestSection(config_drive=True, cpu_mode="qemu64"),
            "migration": MigrationSection(address=host.address, **settings),
            "console": ConsoleSection(vnc=True),
            **(more or {}),
        },
    )
    made.host = host
    return made


def pair(
    stack: ExitStack,
    hosts: tuple[Host, Host],
    guest_dir: Path,
    state: str,
    common: tuple[str, ...],
    *,
    more: dict[str, Any] | None = None,
    **migration: Any,
) -> tuple[Side, Side]:
    """``common``: the directories that both see. Each reaches the other for cold moves."""
    for name in common:
        for number, host in enumerate(hosts):
            place = host.place / state
            place.mkdir(exist_ok=True)
            if number == 0:
                (place / name).mkdir(exist_ok=True)
            elif not (place / name).exists():
                (place / name).symlink_to(hosts[0].place / state / name)
    one, other = (side(host, guest_dir, state, more=more, **migration) for host in hosts)
    for here, there in ((one, other), (other, one)):
        here.reconfigure(migration=dataclasses.replace(here.config.migration, command=command(there)))
        stack.callback(here.driver.cleanup_host, "here")
    return one, other


def command(there: Side) -> tuple[str, ...]:
    """Instead of ssh: cowshed with the configuration of the other host."""
    words = environment(dataclasses.replace(there.config, migration=MigrationSection()))
    return ("env", "COWSHED_CONFIG=/dev/null", *words, sys.executable, "-m", "cowshed.cli")


def environment(config: Config) -> list[str]:
    """What differs from the defaults."""
    found = []
    for section in (field.name for field in dataclasses.fields(config) if field.name != "sources"):
        values = getattr(config, section)
        for field in dataclasses.fields(values):
            value, usual = getattr(values, field.name), getattr(type(values)(), field.name)
            if value != usual:
                text = str(value).lower() if isinstance(value, bool) else str(value)
                found.append(f"COWSHED_{section}_{field.name}".upper() + f"={text}")
    return found


class Calls:
    """The two call-backs of a migration, of which exactly one is called."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.data: dict[str, Any] = {}

    def post(self, context: Any, instance: Instance, dest: str, block: bool, data: dict[str, Any]) -> None:
        self.made.append("post")
        self.data = data

    def recover(
        self, context: Any, instance: Instance, dest: str, data: dict[str, Any], migration_status: str = "error"
    ) -> None:
        self.made.append(migration_status)
        self.data = data


def checks(source: Side, target: Side, instance: Instance, block: bool | None = None, **options: Any) -> dict[str, Any]:
    """What a manager does before; the migrate data goes through JSON as between two hosts."""
    found = target.driver.check_can_live_migrate_destination(None, instance, {}, {}, block, **options)
    try:
        return source.driver.check_can_live_migrate_source(None, instance, json.loads(json.dumps(found)))
    finally:
        target.driver.check_can_live_migrate_destination_cleanup(None, found)
        assert not list((target.state / "instances").glob(".shared-*"))


def prepared(
    source: Side, target: Side, instance: Instance, vifs: list[Vif] | None = None, disks: Any = None
) -> dict[str, Any]:
    data = json.loads(json.dumps(checks(source, target, instance)))
    return json.loads(json.dumps(target.driver.pre_live_migration(None, instance, disks, vifs or [], None, data)))


def go(
    source: Side,
    target: Side,
    instance: Instance,
    data: dict[str, Any],
    meanwhile: threading.Thread | None = None,
    *,
    vifs: list[Vif] | None = None,
    disks: Any = None,
) -> Calls:
    """The move; whatever it comes to, the other side's part of the end too."""
    calls, nics = Calls(), vifs or []
    source.driver.live_migration(None, instance, target.host.address, calls.post, calls.recover, True, data)
    if meanwhile:
        meanwhile.join()
    if calls.made == ["post"]:
        left(source, target, instance, calls.data, nics, disks)
    else:
        for _ in range(2):
            target.driver.rollback_live_migration_at_destination(None, instance, nics, disks, migrate_data=data)
    return calls


def left(source: Side, target: Side, instance: Instance, data: Any, nics: Any = (), disks: Any = None) -> None:
    """Both sides' part of the end, once it runs at the target."""
    source.driver.post_live_migration(None, instance, disks, data)
    source.driver.post_live_migration_at_source(None, instance, nics)
    source.driver.cleanup(None, instance, nics, migrate_data=data)
    target.driver.post_live_migration_at_destination(None, instance, nics, True, disks)


def one_guest(instance: Instance, *sides: Side) -> list[Side]:
    """The sides it runs on, each asked once: what was on its way there may go between two questions."""
    return [one for one in sides if one.driver.power_states().get(instance.uuid) == PowerState.RUNNING]


def booted(source: Side, image: Image, **fields: Any) -> Instance:
    instance = source.spawn(image, user_data=fields.pop("user_data", TICKER), **fields)
    source.wait(instance, "tick 1")
    return instance


def goes_on(where: Side, instance: Instance) -> None:
    """The guest itself says something new."""
    seen = len(where.log(instance))
    deadline = time.monotonic() + 60
    while "tick" not in where.log(instance)[seen:]:
        assert time.monotonic() < deadline, where.log(instance)[-500:]
        time.sleep(0.1)


def went_on(source: Side, instance: Instance) -> bool:
    """Has the source found out that its libvirt let the guest go on after the last step, and stopped it?"""
    return bool((transit.noted(source.driver.rooms, instance.uuid, transit.Way.OUT) or {}).get("went_on"))


def nothing_at(side: Side, instance: Instance) -> None:
    assert instance.uuid not in side.uuids
    assert not list((side.state / "instances").glob(f"{instance.uuid}*"))
    assert not list((side.state / "transit").glob("*"))


def at_source(source: Side, target: Side, instance: Instance) -> None:
    """As before, and the other host is as if nothing had been."""
    assert one_guest(instance, source, target) == [source]
    goes_on(source, instance)
    nothing_at(target, instance)
    assert not list((source.state / "transit").glob("*"))


def slowly(source: Side, uuid: str, then: Callable[[], object]) -> threading.Thread:
    """``then``, on a thread of its own, as soon as the migration is under way."""

    def work() -> None:
        guest = source.driver.rooms.hypervisor.guest(uuid)
        deadline = time.monotonic() + 60
        while (now := migrate.running(guest)) is None or not now.total:
            assert time.monotonic() < deadline
            time.sleep(0.05)
        then()

    return in_thread(work)


def in_thread(work: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=work)
    thread.start()
    return thread


def capped(hosts: tuple[Host, Host], guest_dir: Path, state: str = "state", **options: Any) -> Side:
    """A driver on the first host that sends slowly, so that there is time for things to happen; its guests go on."""
    return side(hosts[0], guest_dir, state, bandwidth=2 * MiB, **{"translated": "live", **options})
