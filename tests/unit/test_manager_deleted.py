"""Softly deleted instances: kept until they are restored, or removed by hand or when their time is over."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cowshed import clock
from cowshed.errors import DeadlineExceeded, HypervisorUnavailable, InstanceNotFound, InvalidState, NameTaken, PortInUse
from cowshed.manager import Host
from cowshed.manager.machine import Machine
from cowshed.model.instance import InstanceState, PowerState
from cowshed.testing.clock import FakeClock
from tests.manager_fakes import PretendDriver, raw_image, settings

HOUR = 3600.0


@pytest.fixture
def time() -> Iterator[FakeClock]:
    with clock.using(FakeClock()) as fake:
        yield fake


@contextlib.contextmanager
def opened(place: Path, interval: float) -> Iterator[Host]:
    driver = PretendDriver(config=settings(place / "state", instances={"reclaim_interval": interval}))
    with Host.connect(config=driver.rooms.config, driver=driver) as host:
        host.images.pull(str(raw_image(place / "disk.raw")), name="tiny")
        yield host


@pytest.fixture
def host(tmp_path: Path, time: FakeClock) -> Iterator[Host]:
    with opened(tmp_path, HOUR) as one:
        yield one


def driver(host: Host) -> PretendDriver:
    assert isinstance(host.driver, PretendDriver)
    return host.driver


def test_it_is_powered_off_and_kept_and_comes_back(host: Host, time: FakeClock):
    machine = host.run("tiny", name="web", publish=["2222:22"])
    before = machine.record
    machine.remove(soft=True)
    assert host.machines() == []
    (kept,) = host.deleted.list()
    assert (kept.name, kept.state, kept.deleted) == ("web", "soft-deleted", time.time())
    assert host.deleted.reclaim_time(kept) == time.time() + HOUR
    machine.restore()
    assert (machine.state, machine.record.deleted, machine.record.vifs) == ("running", 0.0, before.vifs)
    assert host.deleted.list() == []
    assert [entry.event for entry in host.events()] == ["created", "softly deleted", "restored"]


@pytest.mark.parametrize(
    ("change", "after"),
    [
        (lambda machine: machine.stop(force=True), "stopped"),
        (lambda machine: machine.pause(), "running"),  # its memory has gone, and it was on
    ],
)
def test_it_comes_back_as_it_was(host: Host, change: Callable[[Machine], None], after: str):
    machine = host.run("tiny", name="web")
    change(machine)
    machine.remove(soft=True)
    machine.remove(soft=True)
    machine.restore()
    assert (machine.record.state, machine.state) == (after, after)
    last = host.events("web")[-1]
    assert (last.event, last.detail) == ("restored", after)


def test_again_is_success_and_its_time_goes_on(host: Host, time: FakeClock):
    host.run("tiny", name="web").remove(soft=True)
    first = host.machine("web").record.deleted
    time.turn(60)
    host.machine("web").remove(soft=True)
    assert host.machine("web").record.deleted == first
    assert driver(host).names().count("soft_delete") == 2  # who began it may have been killed in the middle


CALLS: list[Callable[[Host], object]] = [
    lambda host: host.machine("web").start(),
    lambda host: host.machine("web").stop(force=True),
    lambda host: host.machine("web").restart(hard=True),
    lambda host: host.machine("web").suspend(),
    lambda host: host.disks.resize("web", "+1G"),
    lambda host: host.instances.limit_disk("web", "", {}),
    lambda host: host.volumes.detach("web", "vdb"),
    lambda host: host.nics.attach("web", "user"),
    lambda host: host.migrations.live("web", "elsewhere"),
    lambda host: host.images.capture("web", "copy"),
    lambda host: host.machine("web").execute(["true"]),
    lambda host: host.machine("web").vnc(),
    lambda host: host.machine("web").ssh_command(),
    lambda host: host.machine("web").wait("address"),
]


def test_nothing_is_done_with_it(host: Host):
    host.run("tiny", name="web").remove(soft=True)
    before = list(driver(host).calls)
    for call in CALLS:
        with pytest.raises(InvalidState, match="web is softly deleted; it cannot be ") as caught:
            call(host)
        assert "cowshed restore web" in caught.value.hint
    assert driver(host).calls == before


def test_its_name_stays_taken(host: Host):
    host.run("tiny", name="web").remove(soft=True)
    with pytest.raises(NameTaken) as caught:
        host.run("tiny", name="web")
    assert "cowshed restore web brings it back" in caught.value.hint
    host.machine("web").remove()
    host.run("tiny", name="web")


def test_its_image_is_in_use(host: Host):
    host.run("tiny", name="web").remove(soft=True)
    assert host.images.users(host.images.show("tiny")) == ["web"]


def test_it_is_reclaimed_by_the_first_run_after_its_time(host: Host, time: FakeClock):
    host.run("tiny", name="web").remove(soft=True)
    time.turn(HOUR - 1)
    host.run("tiny", name="other")
    assert [one.name for one in host.deleted.list()] == ["web"]
    assert host.deleted.due() == []
    time.turn(1)
    host.run("tiny", name="web")  # its name is free by then
    assert host.deleted.list() == []
    assert [entry.event for entry in host.events() if entry.name == "web"][-2:] == ["reclaimed", "created"]
    assert driver(host).names().count("destroy") == 1


def test_without_an_interval_it_stays(tmp_path: Path, time: FakeClock):
    with opened(tmp_path, 0) as host:
        host.run("tiny", name="web").remove(soft=True)
        time.turn(1e9)
        host.run("tiny", name="other")
        (kept,) = host.deleted.list()
        assert host.deleted.reclaim_time(kept) is None
        assert not host.deleted.reclaim(kept.uuid)


def test_what_is_restored_is_not_reclaimed(host: Host, time: FakeClock):
    host.run("tiny", name="web").remove(soft=True)
    time.turn(2 * HOUR)
    (due,) = host.deleted.due()
    host.machine("web").restore()
    assert not host.deleted.reclaim(due.uuid)
    assert host.machine("web").state == "running"
    host.machine("web").remove()
    assert not host.deleted.reclaim(due.uuid)


def test_what_runs_all_the_same_is_not_reclaimed(host: Host, time: FakeClock):
    """Somebody has started its domain without cowshed."""
    uuid = host.run("tiny", name="web").uuid
    host.machine("web").remove(soft=True)
    driver(host).power[uuid] = PowerState.RUNNING
    time.turn(2 * HOUR)
    with pytest.raises(InvalidState, match="but runs"):
        host.deleted.reclaim(uuid)
    host.run("tiny", name="other")
    assert [one.name for one in host.deleted.list()] == ["web"]


@pytest.mark.parametrize("error", [DeadlineExceeded(what="x", seconds=1), KeyboardInterrupt()])
def test_it_is_as_it_was_when_it_does_not_end(host: Host, error: BaseException):
    host.run("tiny", name="web")
    driver(host).fail["soft_delete"] = error
    with pytest.raises(type(error)):
        host.machine("web").remove(soft=True)
    assert host.machine("web").state == "running"
    assert host.instances.records.find("web").state == InstanceState.RUNNING
    assert host.deleted.list() == []


def test_it_stays_deleted_when_it_does_not_start(host: Host):
    host.run("tiny", name="web").remove(soft=True)
    driver(host).fail["undelete"] = PortInUse(port=22, address="127.0.0.1")
    with pytest.raises(PortInUse):
        host.machine("web").restore()
    assert [one.name for one in host.deleted.list()] == ["web"]
    del driver(host).fail["undelete"]
    host.machine("web").restore()
    assert host.machine("web").state == "running"


def test_what_cannot_be_reclaimed_does_not_hinder_a_run(host: Host, time: FakeClock):
    host.run("tiny", name="web").remove(soft=True)
    time.turn(2 * HOUR)
    driver(host).fail["destroy"] = HypervisorUnavailable(uri="x", reason="gone")
    host.run("tiny", name="other")
    assert host.machine("web").state == "deleting"  # the next one goes on with it
    driver(host).fail.clear()
    host.run("tiny", name="third")
    with pytest.raises(InstanceNotFound):
        host.machine("web")


def test_what_is_not_deleted_is_not_restored(host: Host):
    machine = host.run("tiny", name="web")
    with pytest.raises(InvalidState, match="web is running, not softly deleted; it cannot be restored"):
        machine.restore()


def test_saved_memory_is_not_lost(host: Host):
    machine = host.run("tiny", name="web")
    machine.suspend()
    with pytest.raises(InvalidState) as caught:
        machine.remove(soft=True)
    assert "cowshed resume" in caught.value.hint
    assert machine.state == "suspended"
