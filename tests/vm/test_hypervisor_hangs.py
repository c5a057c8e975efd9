"""A QEMU or a libvirt that answers no more, and does not end either: nobody else is held up, and every deadline holds."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cowshed.errors import CowshedError, DeadlineExceeded, HypervisorUnavailable
from cowshed.hypervisor import Guest, Hypervisor, connection, guest
from cowshed.model.image import Image
from cowshed.model.instance import PowerState
from tests.vm.conftest import MakeGuest, end, start_daemon
from tests.vm.machines import Machines
from tests.vm.test_hypervisor_failures import connected


def qemu(uuid: str) -> int:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "cmdline").read_text()
        except OSError:
            continue
        if words.startswith("/usr/bin/qemu-system") and uuid in words:
            return int(path.name)
    raise AssertionError(f"no QEMU of {uuid}")


@contextmanager
def stopped(*pids: int) -> Iterator[None]:
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGCONT)
            except ProcessLookupError:
                continue


def at_once(*calls: Callable[[], Any]) -> tuple[list[threading.Thread], list[Any]]:
    """The calls, each on a thread; what they have come to so far."""
    outcome: list[Any] = []

    def work(call: Callable[[], Any]) -> None:
        try:
            outcome.append(call())
        except CowshedError as error:
            outcome.append(error)

    threads = [threading.Thread(target=work, args=(call,), daemon=True) for call in calls]
    for thread in threads:
        thread.start()
    return threads, outcome


def running(make: MakeGuest, place: Path, name: str) -> Guest:
    made = make(name, log=place / f"{name}.log")
    made.start(paused=True)
    return made


def test_calls_that_take_long_do_not_hold_up_others(
    hypervisor: Hypervisor, tiny_guest: MakeGuest, tmp_path: Path
) -> None:
    """More of them than the five that a daemon works on at once for one connection."""
    hanging = [running(tiny_guest, tmp_path, f"hangs-{number}") for number in range(6)]
    other = running(tiny_guest, tmp_path, "other")
    hypervisor.expect_events()
    before = hypervisor.generation
    with stopped(*(qemu(one.uuid) for one in hanging)):
        threads, outcome = at_once(*(one.resume for one in hanging))
        time.sleep(1)
        begin = time.monotonic()
        other.resume()
        assert other.state() == PowerState.RUNNING
        assert len(hypervisor.states()) >= len(hanging) + 1
        assert time.monotonic() - begin < 4
        assert outcome == []
    for thread in threads:
        thread.join(20)
    assert outcome == [None] * len(hanging)
    assert hypervisor.generation == before


def test_what_a_hanging_qemu_shall_do_has_a_deadline(
    hypervisor: Hypervisor, tiny_guest: MakeGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(guest, "QUICK", 1.0)
    one = running(tiny_guest, tmp_path, "hangs")
    with stopped(qemu(one.uuid)):
        begin = time.monotonic()
        with pytest.raises(
            DeadlineExceeded, match="an answer to the request to resume hangs did not happen within 1 s"
        ):
            one.resume()
        assert time.monotonic() - begin < 8
        one.destroy()
    assert one.state() == PowerState.SHUTDOWN


def test_it_is_powered_off_in_time_and_the_others_are_counted(
    house: Machines, tiny: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cowshed.hypervisor import hypervisor

    monkeypatch.setattr(hypervisor, "STATISTICS", 2.0)
    hanging, other = house.spawn(tiny), house.spawn(tiny)
    with stopped(qemu(hanging.uuid)):
        begin = time.monotonic()
        usage = house.driver.get_per_instance_usage()
        assert usage[other.uuid]["memory_mb"] == 160
        assert house.driver.get_available_resource("here")["vcpus_used"] >= 2
        assert time.monotonic() - begin < 15
        assert house.state_of(hanging) == PowerState.RUNNING

        begin = time.monotonic()
        house.driver.power_off(hanging, timeout=2, retry_interval=1)
        assert time.monotonic() - begin < 25  # libvirt itself gives QEMU 10 s to end before it kills it
    assert house.state_of(hanging) == PowerState.SHUTDOWN


@pytest.mark.slow
def test_all_who_wait_for_a_libvirt_that_hangs_are_told(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "KEEPALIVE", (1, 2))
    pid = start_daemon()
    hypervisor = Hypervisor(connected(home).uri, connect_timeout=3)
    hypervisor.listen(lambda event: None)
    try:
        with stopped(pid):
            begin = time.monotonic()
            asked = [hypervisor.guests] * 3
            changes = [lambda: hypervisor.call("list", lambda c: c.listAllDomains(0))] * 3
            threads, outcome = at_once(*asked, *changes)
            for thread in threads:
                thread.join(30)
            assert time.monotonic() - begin < 10  # 3 s until it is noticed, and one attempt to reach it again
            assert [type(error) for error in outcome] == [HypervisorUnavailable] * 6
        assert hypervisor.states() == {}
    finally:
        hypervisor.close()
        end(pid)
