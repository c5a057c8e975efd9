"""Two hosts in one process, for cold moves of real disks: the guests are pretended, the channel between them is real."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed.contract.storage import Backend
from cowshed.driver.steps import launch, sending
from cowshed.errors import CowshedError, ToolFailed
from cowshed.migration.transport import Channel
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.testing import MemoryKeys
from tests.unit.test_driver_disks import SIZE, Guest, Host

THERE = "host-b"
LARGE = Flavor(root=2 * SIZE)


class Idle(Guest):
    """A stopped guest that may go."""

    name = "web"
    devices = ""

    def ended(self) -> bool:
        return True

    def undefine(self) -> None:
        """Nothing: whether it is defined says its host."""

    def xml(self, *, inactive: bool = False) -> str:
        return f"<domain type='qemu'><name>web</name><devices>{self.devices}</devices></domain>"


class Running(Idle):
    """Runs; ``told`` is what was done to it. Whether it goes off when it was asked says the ``wait`` of who needs it."""

    def __init__(self) -> None:
        super().__init__(PowerState.RUNNING)
        self.told: list[str] = []

    def ended(self) -> bool:
        return self.power == PowerState.SHUTDOWN

    def shutdown(self) -> None:
        self.told.append("button")

    def destroy(self) -> None:
        self.told.append("hard")
        self.power = PowerState.SHUTDOWN


class Side(Host):
    """``defined`` says whether libvirt here knows the instance."""

    def __init__(self, state: Path, keys: MemoryKeys | None = None) -> None:
        state.mkdir()
        super().__init__(state)
        self.guest: Guest = Idle(PowerState.SHUTDOWN)
        self.defined = False
        self.keys = keys or MemoryKeys()
        self.rooms.__dict__["keys"] = self.keys
        for backend in self.rooms.backends.values():
            backend.keys = self.keys  # type: ignore[attr-defined]
        self.rooms.__dict__["capabilities"] = SimpleNamespace(arch="x86_64", tpm_versions=("2.0",))
        self.rooms.__dict__["hypervisor"] = SimpleNamespace(
            find=lambda uuid: self.guest if self.defined else None,
            guest=lambda uuid: self.guest,
            guests=list,
            hostname=lambda: state.name,
            secrets=SimpleNamespace(kept=lambda key_id: None),
        )

    def use(self, backend: Backend) -> None:
        self.rooms.backends[backend.name] = backend  # type: ignore[index]


class Cut(Channel):
    """One that is cut after ``most`` bytes were sent."""

    most = 0

    def _write(self, data: bytes) -> None:
        self.most -= len(data)
        if self.most < 0:
            raise ConnectionResetError("the cable was cut")
        super()._write(data)


class Move:
    """What the two drivers do of a cold move of one instance."""

    def __init__(self, source: Side, target: Side, instance: Instance) -> None:
        self.source, self.target, self.instance = source, target, instance
        self.larger = LARGE
        self.moved = replace(instance, flavor=LARGE)
        self.cut = 0  # bytes after which the connection breaks; 0: it does not

    def leave(self, dest: str = THERE) -> str:
        self.source.defined = True
        return self.source.driver.migrate_disk_and_power_off(None, self.instance, dest, self.larger, [])

    def finish(self, side: Side, info: str) -> None:
        side.driver.finish_migration(None, None, self.moved, info, [], Image("image"), True, power_on=False)
        side.defined = True

    def revert(self) -> None:
        """The destination first, as a control plane does."""
        self.target.defined = False
        self.target.driver.discard_received(self.moved)
        self.source.driver.finish_revert_migration(None, self.instance, [], power_on=False)

    def confirm(self) -> None:
        for _ in range(2):
            self.source.driver.confirm_migration(None, self.instance, [])
        self.source.defined = False

    def nothing_at(self, side: Side) -> None:
        assert not list(side.rooms.instances.glob(f"{self.instance.uuid}*"))
        assert not list((side.rooms.state / "transit").glob("*"))


@contextmanager
def connected(move: Move, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The source reaches the target's driver in a thread; libvirt has nothing to define."""

    @contextmanager
    def channel(*_: Any) -> Iterator[Channel]:
        theirs, ours = os.pipe(), os.pipe()  # each: to read, to write
        peer = Channel(theirs[0], ours[1], silence=60)
        thread = threading.Thread(target=_serve, args=(move, peer, (theirs[0], ours[1])))
        thread.start()
        try:
            kind = Cut if move.cut else Channel
            made = kind(ours[0], theirs[1], silence=60)
            if isinstance(made, Cut):
                made.most = move.cut
            yield made
        except OSError as error:  # as of the command that a channel goes through
            raise ToolFailed(command="ssh", status=255, output=str(error)) from error
        finally:
            os.close(theirs[1])
            thread.join(60)
            os.close(ours[0])

    monkeypatch.setattr(sending, "channel", channel)
    monkeypatch.setattr(launch, "define", lambda *_: None)
    monkeypatch.setattr(launch, "check", lambda *_: None)
    yield


def _serve(move: Move, peer: Channel, descriptors: tuple[int, int]) -> None:
    try:
        move.target.driver.receive(move.instance, peer.hear(), peer)
        peer.say({"done": True})
    except CowshedError as error:
        with suppress(OSError):
            peer.fail(error)
    except (EOFError, OSError):
        pass  # the other side is gone
    finally:
        for fd in descriptors:
            os.close(fd)
