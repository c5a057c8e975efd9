"""Moves and resizes as the manager does them: refused in time, and as it was when they fail."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner

from cowshed.cli import migrate, resize
from cowshed.cli.context import Session
from cowshed.driver.steps import meeting
from cowshed.errors import (
    CowshedError,
    DeadlineExceeded,
    HostUnsuitable,
    InvalidRequest,
    InvalidState,
    NameTaken,
    ToolFailed,
)
from cowshed.hypervisor import capabilities
from cowshed.manager import Host, service
from cowshed.manager.records import Record, encode
from cowshed.migration.transport import Channel
from cowshed.model.instance import Instance, InstanceState, PowerState
from tests.manager_fakes import PretendDriver, raw_image, settings

THERE = "host-b"


class Moving(PretendDriver):
    """A host whose instances go to ``peer``, over a real channel; ``down``: how many connections are made before it is
    not reached any more.
    """

    name = "host-a"
    peer: Host | None = None
    down: int | None = None

    def __init__(self, *words: Any, **fields: Any) -> None:
        super().__init__(*words, **fields)
        hypervisor = self.rooms.hypervisor
        hypervisor.hostname = lambda: self.name  # type: ignore[method-assign]
        hypervisor.version = lambda: (7, 2, 0)  # type: ignore[method-assign]
        self.left = self.kept = ""
        self.ran = False
        self.done: Callable[[], object] = lambda: None  # when an instance has come, or is resized
        self.ends: dict[str, Any] = {"error": "no route to host"}

    def is_here(self, dest: str) -> bool:
        return dest in ("localhost", self.name)

    def meet(self, dest: str, peer: Channel, *, live: bool) -> None:
        self.calls.append(("meet", dest))
        meeting.meet(self.rooms, dest, peer)

    def met(self, probe: str) -> dict[str, Any]:
        return meeting.met(self.rooms, probe)

    @contextmanager
    def other_host(self, dest: str) -> Iterator[Channel]:
        if self.down is not None:
            self.down -= 1
            if self.down < 0:
                raise ToolFailed(command="ssh", status=255, output="Connection refused")
        theirs, ours = os.pipe(), os.pipe()
        peer = Channel(theirs[0], ours[1], silence=20)
        thread = threading.Thread(target=service.serve, args=(self.peer, peer))
        thread.start()
        try:
            yield Channel(ours[0], theirs[1], silence=20)
        finally:
            os.close(theirs[1])
            thread.join(20)
            for fd in (theirs[0], *ours):
                os.close(fd)

    def volume_passwords(self, instance: Instance) -> dict[str, str]:
        return {}

    def left_for(self, instance: Instance) -> str:
        return self.left

    def resized(self, instance: Instance) -> bool:
        return bool(self.kept)

    def moved_to(self, instance: Instance) -> str:
        return self.kept

    def ran_before(self, instance: Instance) -> bool:
        return self.ran

    def remembered_image(self, instance: Instance) -> None:
        return None

    def check_can_live_migrate_destination(self, *_: Any, **__: Any) -> dict[str, Any]:
        return {}

    def check_can_live_migrate_destination_cleanup(self, *_: Any) -> None:
        pass

    def check_can_live_migrate_source(self, context: Any, instance: Instance, found: Any, *_: Any) -> Any:
        return found

    def pre_live_migration(self, *words: Any) -> Any:
        return words[-1]

    def live_migration(self, context: Any, instance: Instance, *words: Any, migrate_data: Any) -> None:
        """It comes to what ``ends`` says."""
        migrate_data.update(self.ends)
        words[2](context, instance, words[0], migrate_data)

    def rollback_live_migration_at_destination(self, context: Any, instance: Instance, *_: Any, **__: Any) -> None:
        self._call("rollback", instance)

    def migrate_disk_and_power_off(self, context: Any, instance: Instance, *_: Any, **__: Any) -> str:
        self._call("migrate_disk_and_power_off", instance)
        self.power[instance.uuid] = PowerState.SHUTDOWN
        return "[]"

    def finish_migration(self, context: Any, migration: Any, instance: Instance, *_: Any, **__: Any) -> None:
        self._call("finish_migration", instance)
        self.power[instance.uuid] = PowerState.RUNNING
        self.done()

    def confirm_migration(self, migration: Any, instance: Instance, network_info: Any) -> None:
        self._call("confirm_migration", instance)
        if self.moved_to(instance) or not self.kept:
            self.power.pop(instance.uuid)

    def finish_revert_migration(self, context: Any, instance: Instance, *_: Any, power_on: bool = True) -> None:
        self._call("finish_revert_migration", instance)
        self.power[instance.uuid] = PowerState.RUNNING if power_on else PowerState.SHUTDOWN

    def destroy(self, context: Any, instance: Instance, *_: Any, **__: Any) -> None:
        super().destroy(context, instance)

    def discard_received(self, instance: Instance) -> None:
        self._call("discard_received", instance)


def opened(place: Path, name: str) -> Host:
    driver = Moving(config=settings(place / name))
    driver.name = name
    return Host.connect(config=driver.rooms.config, driver=driver)  # type: ignore[arg-type]


@pytest.fixture
def hosts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Host, Host]]:
    monkeypatch.setattr(capabilities, "host_uuid", lambda hypervisor: f"uuid of {hypervisor.hostname()}")
    with opened(tmp_path, "host-a") as here, opened(tmp_path, THERE) as there:
        of(here).peer = there
        here.images.pull(str(raw_image(tmp_path / "disk.raw")), name="tiny")
        here.run("tiny", name="web")
        of(here).calls.clear()
        yield here, there


def of(host: Host) -> Moving:
    assert isinstance(host.driver, Moving)
    return host.driver


def untouched(host: Host) -> Record:
    """It runs, and nothing was done to it."""
    record = host.instances.find("web")
    assert record.state == InstanceState.RUNNING
    assert "migrate_disk_and_power_off" not in of(host).names()
    return record


def test_a_cold_move_takes_the_record_along(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    made = here.instances.find("web").created
    time.sleep(0.02)
    here.migrations.cold("web", THERE, timeout=5)
    assert not here.instances.records.all()
    assert there.instances.find("web").state == InstanceState.RUNNING
    assert of(here).names() == ["meet", "migrate_disk_and_power_off", "meet", "confirm_migration"]
    assert there.instances.find("web").created == made  # it is as old as it was


@pytest.mark.parametrize("how", ["live", "cold"])
@pytest.mark.parametrize("dest", ["localhost", "host-a", "another-name-of-it"])
def test_this_host_is_no_destination(hosts: tuple[Host, Host], how: str, dest: str) -> None:
    """By a name that it knows, or by one under which it finds itself."""
    here = hosts[0]
    of(here).peer = here
    with pytest.raises((InvalidRequest, HostUnsuitable), match="this host"):
        move(here, how, dest)
    untouched(here)
    assert not list(here.config.state.glob(".shared-*"))


def move(host: Host, how: str, dest: str) -> None:
    if how == "live":
        host.migrations.live("web", dest)
    else:
        host.migrations.cold("web", dest, timeout=5)


def test_the_same_libvirt_under_other_records_is_no_destination(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    of(there).name = of(here).name
    with pytest.raises(HostUnsuitable, match="this host itself"):
        here.migrations.cold("web", THERE, timeout=5)
    untouched(here)


def test_a_host_that_is_not_reached_is_found_out_before_the_guest_is_stopped(hosts: tuple[Host, Host]) -> None:
    here = hosts[0]
    of(here).down = 0
    with pytest.raises(ToolFailed, match="refused"):
        here.migrations.cold("web", THERE, timeout=5)
    untouched(here)


def test_a_host_that_is_lost_before_it_was_asked_to_start_it(hosts: tuple[Host, Host]) -> None:
    """Nothing can run there: it runs here again, though nobody there can be told."""
    here = hosts[0]
    of(here).down = 1
    with pytest.raises(ToolFailed, match="refused"):
        here.migrations.cold("web", THERE, timeout=5)
    assert of(here).names()[-1] == "finish_revert_migration"
    assert here.instances.find("web").state == InstanceState.RUNNING


def test_a_host_that_cannot_start_it_gives_it_back(hosts: tuple[Host, Host]) -> None:
    here, there = hosts
    of(there).fail["finish_migration"] = HostUnsuitable(reason="no memory")
    with pytest.raises(HostUnsuitable, match="no memory"):
        here.migrations.cold("web", THERE, timeout=5)
    assert of(there).names()[-1] == "discard_received"
    assert of(here).names()[-1] == "finish_revert_migration"
    assert here.instances.find("web").state == InstanceState.RUNNING
    assert not there.instances.records.all()


def test_a_host_that_is_lost_while_it_starts_it(hosts: tuple[Host, Host]) -> None:
    """It may run there: it is not started here, and the user is told what to do."""
    here, there = hosts
    of(there).fail["finish_migration"] = HostUnsuitable(reason="no memory")
    of(here).down = 2
    with pytest.raises(HostUnsuitable, match="does not say") as caught:
        here.migrations.cold("web", THERE, timeout=5)
    assert "--revert" in (caught.value.hint or "")
    assert "finish_revert_migration" not in of(here).names()


def before(monkeypatch: pytest.MonkeyPatch, host: Host, step: str, what: Callable[[], object]) -> None:
    """``what`` happens just before the driver does ``step``."""
    usual = getattr(of(host), step)
    monkeypatch.setattr(of(host), step, lambda *words, **named: (what(), usual(*words, **named))[1])


def test_a_name_that_is_taken_there_while_the_disks_come(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What has its name there is another instance: it is not started there without a record, and runs here as before."""
    here, there = hosts
    there.images.pull(str(raw_image(tmp_path / "other.raw")), name="tiny")
    before(monkeypatch, here, "migrate_disk_and_power_off", lambda: there.run("tiny", name="web"))
    with pytest.raises(NameTaken, match="web") as caught:
        here.migrations.cold("web", THERE, timeout=5)
    assert "finish_migration" not in of(there).names()
    assert "on the destination" in str(caught.value.hint)
    assert of(there).names()[-1] == "discard_received"
    assert here.instances.find("web").state == InstanceState.RUNNING


def test_of_a_name_that_is_taken_there_nobody_is_told_to_remove_the_one_here(
    hosts: tuple[Host, Host], tmp_path: Path
) -> None:
    here, there = hosts
    there.images.pull(str(raw_image(tmp_path / "other.raw")), name="tiny")
    there.run("tiny", name="web")
    with pytest.raises(NameTaken, match="web") as caught:
        here.migrations.live("web", THERE)
    assert "on the destination" in str(caught.value.hint) and "cowshed rm" not in str(caught.value.hint)
    untouched(here)


def test_nobody_takes_its_name_while_it_starts_there(
    hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    here, there = hosts
    there.images.pull(str(raw_image(tmp_path / "other.raw")), name="tiny")

    def take() -> None:
        with suppress(NameTaken):
            there.run("tiny", name="web")

    other = threading.Thread(target=take)

    def begin() -> None:
        other.start()
        other.join(0.3)

    uuid = here.instances.find("web").uuid
    before(monkeypatch, there, "finish_migration", begin)
    here.migrations.cold("web", THERE, timeout=5)
    other.join(20)
    assert [record.uuid for record in there.instances.records.all()] == [uuid]


@pytest.mark.parametrize(("end", "cpus"), [("confirm", 2), ("revert", 1)])
def test_a_resize_that_was_killed_when_it_was_done(hosts: tuple[Host, Host], end: str, cpus: int) -> None:
    """What libvirt has by then is what is recorded when it is confirmed, and what it was when it is reverted."""
    here = hosts[0]
    left: list[Record] = []
    of(here).done = lambda: left.append(here.instances.records.find("web"))
    here.migrations.resize("web", cpus=2)
    here.instances.records.update(left[0])  # as the killed process has left it
    of(here).kept = "localhost"
    of(here).moved_to = lambda instance: ""  # type: ignore[method-assign]
    getattr(here.migrations, end)("web")
    assert here.instances.find("web").instance.flavor.vcpus == cpus
    assert not here.instances.find("web").instance.system_metadata


@pytest.mark.parametrize(("end", "event"), [("confirm", "confirmed"), ("revert", "reverted")])
def test_the_end_of_a_resize_is_an_event(hosts: tuple[Host, Host], end: str, event: str) -> None:
    here = hosts[0]
    here.migrations.resize("web", cpus=2, memory="2G")
    of(here).kept = "localhost"
    of(here).moved_to = lambda instance: ""  # type: ignore[method-assign]
    getattr(here.migrations, end)("web")
    now = "CPUs 1 to 2, memory 1 GiB to 2 GiB"
    ended = now if end == "confirm" else "CPUs 2 to 1, memory 2 GiB to 1 GiB"
    assert [(entry.event, entry.detail) for entry in here.events("web")][1:] == [("resized", now), (event, ended)]


def test_the_event_of_a_larger_root_disk_says_how_large_it_is(hosts: tuple[Host, Host]) -> None:
    """A flavor without a size of the root disk takes the image's."""
    here = hosts[0]
    here.migrations.resize("web", disk="3G")
    assert here.events("web")[-1].detail == "root disk image's size to 3 GiB"


def test_a_resize_that_fails_is_not_recorded(hosts: tuple[Host, Host]) -> None:
    here = hosts[0]
    before = here.instances.find("web")
    of(here).fail["finish_migration"] = HostUnsuitable(reason="no memory")
    with pytest.raises(HostUnsuitable, match="no memory"):
        here.migrations.resize("web", cpus=2)
    assert here.instances.find("web").instance == before.instance
    assert of(here).names()[-1] == "finish_revert_migration"


def killed(hosts: tuple[Host, Host], step: str, *, ran: bool = True) -> Host:
    """A cold move that ended at ``step``, of an instance that ``ran`` before."""
    here = hosts[0]
    of(here).fail[step] = KeyboardInterrupt()
    with suppress(KeyboardInterrupt):
        here.migrations.cold("web", THERE, timeout=5)
    of(here).fail.clear()
    of(here).kept = THERE
    of(here).ran = ran
    for host in hosts:
        of(host).calls.clear()
    return here


def test_a_cold_move_that_was_killed_when_it_ran_there_is_confirmed(hosts: tuple[Host, Host]) -> None:
    here, there = killed(hosts, "confirm_migration"), hosts[1]
    with pytest.raises(InvalidState, match="on host-b by now"):
        here.migrations.revert("web")
    assert "finish_revert_migration" not in of(here).names() and "discard_received" not in of(there).names()
    here.migrations.confirm("web")
    assert of(here).names()[-1] == "confirm_migration"
    assert not here.instances.records.all() and there.instances.find("web").state == InstanceState.RUNNING


def test_a_cold_move_that_was_killed_before_it_ran_there_is_reverted(hosts: tuple[Host, Host]) -> None:
    """The disks here are all there is of it."""
    here, there = killed(hosts, "migrate_disk_and_power_off"), hosts[1]
    with pytest.raises(InvalidState, match="not on host-b"):
        here.migrations.confirm("web")
    assert "confirm_migration" not in of(here).names()
    here.migrations.revert("web")
    assert of(there).names()[-1] == "discard_received"
    assert of(here).names()[-1] == "finish_revert_migration"


@pytest.mark.parametrize("ran", [True, False])
def test_what_is_reverted_runs_again_if_it_ran_before(hosts: tuple[Host, Host], ran: bool) -> None:
    """Whoever has looked at it meanwhile, and found it switched off."""
    here = killed(hosts, "migrate_disk_and_power_off", ran=ran)
    uuid = here.instances.find("web").uuid
    of(here).power[uuid] = PowerState.SHUTDOWN
    assert here.instances.find("web").state == InstanceState.STOPPED
    assert here.migrations.revert("web").state == (InstanceState.RUNNING if ran else InstanceState.STOPPED)


def test_of_a_host_that_is_not_reached_only_the_revert_is_the_user_s_to_judge(hosts: tuple[Host, Host]) -> None:
    here = killed(hosts, "migrate_disk_and_power_off")
    of(here).down = 0
    with pytest.raises(ToolFailed):
        here.migrations.confirm("web")
    assert "confirm_migration" not in of(here).names()
    here.migrations.revert("web")
    assert of(here).names()[-1] == "finish_revert_migration"


@pytest.mark.parametrize("known", [True, False])
def test_what_may_run_there_is_not_taken_back_there(hosts: tuple[Host, Host], known: bool) -> None:
    here, there = hosts
    if not known:
        of(here).ends = {"open": True}
    with pytest.raises(HostUnsuitable, match="stays here: no route" if known else "does not say") as caught:
        here.migrations.live("web", THERE)
    assert of(there).names() == (["rollback"] if known else [])
    assert known or "virsh resume web" in (caught.value.hint or "")
    assert here.instances.find("web")


def test_why_it_stays_is_said_also_when_the_other_host_cannot_clear_up(
    hosts: tuple[Host, Host], caplog: pytest.LogCaptureFixture
) -> None:
    here, there = hosts
    of(there).fail["rollback"] = HostUnsuitable(reason="its libvirt is away")
    with pytest.raises(HostUnsuitable, match="stays here: no route"):
        here.migrations.live("web", THERE)
    assert of(there).names() == ["rollback"]
    assert "its libvirt is away" in caplog.text


def test_what_took_too_long_was_not_interrupted(hosts: tuple[Host, Host]) -> None:
    """Nobody has said stop: exit code 7, and what can be done about it."""
    here = hosts[0]
    of(here).ends = {"late": 1600.0}
    with pytest.raises(DeadlineExceeded, match=r"runs here as before.* within 1600 s") as caught:
        here.migrations.live("web", THERE)
    assert "at_timeout" in str(caught.value.hint)
    untouched(here)


def test_two_ways_that_part_are_refused(hosts: tuple[Host, Host], monkeypatch: pytest.MonkeyPatch) -> None:
    """[migration] uri and command."""
    asked: list[str] = []

    @contextmanager
    def hypervisor(uri: str, **_: Any) -> Iterator[Any]:
        asked.append(uri)
        if "nowhere" in uri:
            raise HostUnsuitable(reason="not reached")
        yield SimpleNamespace(hostname=lambda: "host-c")

    monkeypatch.setattr("cowshed.hypervisor.Hypervisor", hypervisor)
    rooms = of(hosts[0]).rooms
    with pytest.raises(HostUnsuitable, match=r"command reaches host-b .* uri reaches host-c"):
        meeting.refuse_apart(rooms, THERE, {"host": "uuid of host-b", "name": THERE})
    meeting.refuse_apart(rooms, THERE, {"host": "uuid of host-c", "name": "host-c"})
    meeting.refuse_apart(rooms, "nowhere", {"host": "uuid of host-b", "name": THERE})
    assert asked[0] == f"qemu+ssh://{THERE}/system?no_tty=1"


OTHERS: tuple[Any, ...] = (None, "x", ["x"], 7, {"x": None}, ...)


def mangled(value: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Each of its facts, and of those that they hold, in other ways, or gone."""
    for name, one in value.items():
        for other in OTHERS:
            yield {key: what for key, what in {**value, name: other}.items() if what is not ...}
        if isinstance(one, dict):
            yield from ({**value, name: inner} for inner in mangled(one))


@pytest.mark.parametrize("call", ["finish", "discard", "check", "prepare", "rollback", "has", "meet"])
def test_a_call_that_is_mangled_is_refused(hosts: tuple[Host, Host], call: str) -> None:
    """Whoever serves goes on, and what has come to nothing is no instance."""
    here, there = hosts
    record = json.loads(encode(here.instances.find("web")))
    message = {"call": call, "uuid": "x", "name": "web", "info": "", "power_on": True, "created": 0, "source": {}}
    message |= {"data": {"volumes": [{"id": "1"}]}, "passwords": {"1": "x"}, "probe": "x"}
    tried = [{**message, "record": json.dumps(one)} for one in mangled(record)]
    tried += mangled({**message, "record": json.dumps(record)})
    for one in tried:
        channel = Heard(one)
        service.serve(there, channel)  # type: ignore[arg-type]
        assert len(channel.answers) == 1
        for known in there.instances.records.all():
            there.instances.records.remove(known)
            assert encode(known)
            assert isinstance(known.name, str) and isinstance(known.instance.flavor.memory, int)


class Heard:
    """A channel with one message."""

    def __init__(self, message: dict[str, Any]) -> None:
        self.messages = [message]
        self.answers: list[Any] = []

    def hear(self) -> dict[str, Any]:
        if not self.messages:
            raise EOFError
        return self.messages.pop()

    def say(self, answer: Any) -> None:
        self.answers.append(answer)

    def fail(self, error: CowshedError) -> None:
        self.answers.append(error)


def test_a_probe_is_no_path(hosts: tuple[Host, Host]) -> None:
    with pytest.raises(InvalidRequest):
        of(hosts[0]).met("../host-a/cowshed.db")


@pytest.mark.parametrize(
    ("verb", "words"),
    [
        (migrate.migrate, ["web", THERE, "--live", "--cold"]),
        (migrate.migrate, ["web", THERE]),
        (resize.resize, ["web", "--confirm", "--revert"]),
        (resize.resize, ["web", "--cpus", "2", "--confirm"]),
        (resize.resize, ["web"]),
    ],
)
def test_one_way_is_said(verb: Any, words: list[str]) -> None:
    assert CliRunner().invoke(verb, words, obj=Session()).exit_code == 2
