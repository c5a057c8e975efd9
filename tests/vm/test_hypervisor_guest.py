"""Guests on a real libvirt: the life of one, from its definition to its end."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest

from cowshed.console import log
from cowshed.errors import (
    DeadlineExceeded,
    HypervisorError,
    InstanceNotFound,
    InvalidState,
    NameTaken,
    UnsupportedOperation,
)
from cowshed.hypervisor import EventKind, GuestEvent, Hypervisor
from cowshed.model.event import Transition
from cowshed.model.host import VirtType
from cowshed.model.instance import PowerState
from tests.vm.conftest import MakeGuest, MakeXml

UP = "cowshed-guest: up"


def wait_up(path: Path) -> None:
    for _ in log.follow(path, until=UP, timeout=60):
        pass


def test_whole_life_with_events_in_order(hypervisor: Hypervisor, tiny_guest: MakeGuest, tmp_path: Path) -> None:
    heard: list[GuestEvent] = []
    hypervisor.listen(heard.append)
    guest = tiny_guest("life")
    assert guest.state() == PowerState.SHUTDOWN
    assert hypervisor.states()[guest.uuid] == PowerState.SHUTDOWN

    guest.start(paused=True)
    assert guest.state() == PowerState.PAUSED
    guest.resume()
    assert guest.wait(PowerState.RUNNING, 10, "running") == PowerState.RUNNING
    wait_up(tmp_path / "console.log")
    info = guest.info()
    assert (info.state, info.num_cpu, info.max_mem_kb) == (PowerState.RUNNING, 1, 128 * 1024)
    assert info.internal_id is not None
    assert info.cpu_time_ns > 0

    guest.suspend()
    guest.wait(PowerState.PAUSED, 10, "paused")
    guest.resume()
    guest.wait(PowerState.RUNNING, 10, "running")

    guest.save()
    assert guest.has_saved()
    assert guest.state() == PowerState.SHUTDOWN
    guest.start()
    assert guest.state() == PowerState.RUNNING
    assert not guest.has_saved()

    guest.shutdown()
    assert guest.wait(PowerState.SHUTDOWN, 30, "off by ACPI") == PowerState.SHUTDOWN
    assert "power button" in log.tail(tmp_path / "console.log", 10_000).decode()

    guest.undefine()
    guest.undefine()
    with pytest.raises(InstanceNotFound):
        guest.state()
    assert guest.uuid not in hypervisor.states()

    deadline = time.monotonic() + 5
    while not any(event.detail == "undefined" for event in heard) and time.monotonic() < deadline:
        time.sleep(0.02)
    changes = [event.transition for event in heard if event.uuid == guest.uuid and event.transition is not None]
    assert changes == [
        Transition.STARTED,
        Transition.PAUSED,  # started paused
        Transition.RESUMED,
        Transition.PAUSED,
        Transition.RESUMED,
        Transition.PAUSED,  # libvirt stops the CPUs to save the memory
        Transition.STOPPED,
        Transition.STARTED,
        Transition.RESUMED,
        Transition.STOPPED,
    ] or changes == [  # the same, libvirt having told of the restored CPUs and of the start the other way round
        Transition.STARTED,
        Transition.PAUSED,
        Transition.RESUMED,
        Transition.PAUSED,
        Transition.RESUMED,
        Transition.PAUSED,
        Transition.STOPPED,
        Transition.RESUMED,
        Transition.STARTED,
        Transition.STOPPED,
    ]
    details = [event.detail for event in heard if event.uuid == guest.uuid and event.kind == EventKind.LIFECYCLE]
    assert "saved" in details
    assert "restored" in details


def test_destroy_is_idempotent_and_a_saved_memory_does_not_hinder_undefine(tiny_guest: MakeGuest) -> None:
    guest = tiny_guest("ends")
    guest.destroy()
    guest.start()
    guest.destroy()
    guest.destroy()
    assert guest.state() == PowerState.SHUTDOWN
    guest.start(paused=True)
    guest.save()
    guest.discard_saved()
    guest.discard_saved()
    assert not guest.has_saved()
    guest.start(paused=True)
    guest.save()
    guest.undefine()
    guest.destroy()
    guest.undefine()


def test_wrong_states_are_errors_of_ours(tiny_guest: MakeGuest) -> None:
    guest = tiny_guest("wrong")
    for call in (guest.suspend, guest.resume, guest.shutdown, guest.save, guest.inject_nmi, guest.open_console):
        with pytest.raises(InvalidState):
            call()
    guest.start(paused=True)
    with pytest.raises(InvalidState):
        guest.start()


def test_waiting_ends_at_its_deadline(tiny_guest: MakeGuest) -> None:
    guest = tiny_guest("late")
    begin = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"late running did not happen within 0\.3 s"):
        guest.wait(PowerState.RUNNING, 0.3, "late running")
    assert time.monotonic() - begin < 1


def test_a_guest_that_is_gone_counts_as_off(tiny_guest: MakeGuest) -> None:
    guest = tiny_guest("gone")
    guest.undefine()
    assert guest.wait((PowerState.SHUTDOWN, PowerState.CRASHED), 1, "off") == PowerState.SHUTDOWN


def test_names_and_uuids_are_unique(hypervisor: Hypervisor, tiny_guest: MakeGuest, tiny_xml: MakeXml) -> None:
    guest = tiny_guest("only")
    with pytest.raises(NameTaken, match="only"):
        hypervisor.define(tiny_xml("only"))
    again = hypervisor.define(tiny_xml("only", identity=guest.uuid))
    assert again.uuid == guest.uuid
    assert [known.uuid for known in hypervisor.guests() if known.name == "only"] == [guest.uuid]


def test_a_wrong_definition_is_refused(hypervisor: Hypervisor, tiny_xml: MakeXml) -> None:
    with pytest.raises(HypervisorError, match="define the domain"):
        hypervisor.define(tiny_xml("schema", devices="<nonsense/>"))
    with pytest.raises(HypervisorError):
        hypervisor.define("<domain type='qemu'><name>cut")
    assert "schema" not in [guest.name for guest in hypervisor.guests()]


def test_unknown_instances(hypervisor: Hypervisor) -> None:
    unknown = "00000000-0000-4000-8000-000000000000"
    assert hypervisor.find(unknown) is None
    with pytest.raises(InstanceNotFound, match=unknown):
        hypervisor.guest(unknown)
    assert hypervisor.stats([unknown]) == {}


def test_no_agent_costs_no_time(tiny_guest: MakeGuest) -> None:
    guest = tiny_guest("silent")
    guest.start()
    begin = time.monotonic()
    assert guest.agent.ping() is False
    for ask in (guest.agent.addresses, lambda: guest.agent.set_password("root", "secret")):
        with pytest.raises(UnsupportedOperation):
            ask()
    assert time.monotonic() - begin < 1


def test_the_agent_answers_and_a_dead_one_is_given_up(tiny_guest: MakeGuest) -> None:
    guest = tiny_guest("agent", agent=True)
    guest.wait_event(
        EventKind.AGENT,
        timeout=60,
        what="the agent connected",
        cause=guest.start,
        where=lambda event: event.data["state"] == "connected",
    )
    assert guest.agent.ping()
    assert "guest-ping" in json.dumps(guest.agent.command("guest-info"))
    assert all(interface.name != "lo" for interface in guest.agent.addresses())
    with pytest.raises(UnsupportedOperation):
        guest.agent.command("no-such-command")
    guest.suspend()  # it is connected and cannot answer any more
    begin = time.monotonic()
    assert guest.agent.ping() is False
    assert time.monotonic() - begin < 12


def test_statistics_of_many_come_together(hypervisor: Hypervisor, tiny_guest: MakeGuest) -> None:
    running, stopped = tiny_guest("busy"), tiny_guest("idle")
    running.start()
    stats = hypervisor.stats([running.uuid, stopped.uuid])
    assert stats[running.uuid]["state.state"] == 1
    assert stats[running.uuid]["cpu.time"] > 0
    assert stats[stopped.uuid]["state.state"] == 5
    assert set(hypervisor.stats()) >= {running.uuid, stopped.uuid}


def test_metadata_lives_with_the_domain(tiny_guest: MakeGuest) -> None:
    guest = tiny_guest("meta")
    assert guest.metadata() is None
    guest.set_metadata("<instance bootable='no'/>")
    guest.start(paused=True)
    assert "bootable" in (guest.metadata() or "")
    guest.set_metadata(None)
    guest.set_metadata(None)
    assert guest.metadata() is None


def test_capabilities_are_asked_once(hypervisor: Hypervisor, tmp_path: Path) -> None:
    cache = tmp_path / "host" / "capabilities.json"
    asked = hypervisor.capabilities(cache=cache, virt_type=VirtType.QEMU, note="because")
    assert asked.machines["q35"].startswith("pc-q35-")
    assert asked.emulator.is_file()
    assert asked.session
    assert asked.note == "because"
    assert "virtio" in asked.disk_buses
    assert "maximum" in asked.cpu_modes
    assert asked.qemu > (5, 0, 0)
    for firmware in asked.firmwares:
        assert firmware.loader.is_file()
        assert firmware.nvram_template.is_file()

    nobody = Hypervisor(hypervisor.uri)  # never opened: the answer comes from the file
    assert nobody.capabilities(cache=cache, virt_type=VirtType.QEMU, note="because") == asked
    assert nobody.generation == 0

    cache.write_text("{")
    assert hypervisor.capabilities(cache=cache, virt_type=VirtType.QEMU, note="because") == asked
    assert json.loads(cache.read_text())["capabilities"]["arch"] == asked.arch


def test_kvm_is_hidden(hypervisor: Hypervisor, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedOperation, match="this host cannot run kvm guests"):
        hypervisor.capabilities(cache=tmp_path / "c.json", virt_type=VirtType.KVM)


def test_the_host_is_described(hypervisor: Hypervisor) -> None:
    node = hypervisor.node()
    assert node.cpus >= 1
    assert node.memory > 1 << 28
    stats = hypervisor.cpu_stats()
    assert stats.idle > 0
    assert hypervisor.hostname()
    assert hypervisor.alive()
    assert isinstance(hypervisor.networks(), list)


def test_a_save_that_is_interrupted_is_given_up_or_complete(tiny_guest: MakeGuest, tmp_path: Path) -> None:
    """^C in the middle of the second or two that writing its memory takes."""
    guest = tiny_guest("interrupted")
    guest.start()
    wait_up(tmp_path / "console.log")
    threading.Timer(0.08, os.kill, [os.getpid(), signal.SIGINT]).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        guest.save()
    assert time.monotonic() - begin < 15
    state = guest.wait((PowerState.RUNNING, PowerState.SHUTDOWN), 10, "decided")
    # Where saving had gone too far to be given up, it is complete: never something in between.
    assert (state == PowerState.RUNNING) != guest.has_saved()
