"""What the hosts of a cold move say to each other, mangled: refused by its name, and nothing is begun or left."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cowshed.driver.steps import sending
from cowshed.errors import CowshedError, Interrupted, InvalidRequest
from cowshed.model.disk import Bus
from cowshed.model.volume import AttachedVolume, VolumeState
from cowshed.units import MiB
from cowshed.volumes import record
from cowshed.volumes.local import File
from tests.cold_moves import Move, Side
from tests.host.test_driver_cold import made

OTHERS: tuple[Any, ...] = (None, "x", "\u00fc", ["x"], [["x"]], 7, -1, 1e400, True, {}, {"x": None}, {"disk": "x"})


class Told:
    """One end of a channel: it hears what it is given, and keeps what is said to it."""

    def __init__(self, *heard: dict[str, Any]) -> None:
        self.heard = list(heard)
        self.said: list[dict[str, Any]] = []
        self.why: CowshedError | None = None

    def say(self, message: Mapping[str, Any]) -> None:
        self.said.append(json.loads(json.dumps(message)))

    def hear(self) -> dict[str, Any]:
        if not self.heard:
            raise Interrupted(what="the test")
        return self.heard.pop(0)

    def ask(self, call: str, **arguments: Any) -> dict[str, Any]:
        self.say(arguments)
        return self.hear()

    def receive(self, *_: Any) -> None:
        raise Interrupted(what="the test")


class Messages:
    """``offer``, ``plan`` and ``go`` as two hosts have said them, of an encrypted overlay with a volume beside it."""

    def __init__(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(File, "disconnect", lambda self, info: None)
        source, target = Side(tmp_path / "host-a"), Side(tmp_path / "host-b")
        for side in (source, target):
            usual = side.rooms.config
            place = str(side.rooms.state / "swtpm")
            side.rooms.config = replace(usual, guest=replace(usual.guest, tpm_directory=place))
        source.guest.devices = "<tpm model='tpm-crb'><backend type='emulator' version='2.0'/></tpm>"  # type: ignore[attr-defined]
        self.who = made(source, "qcow2 on a base", encrypt=True)
        self.move = Move(source, target, self.who)
        memory = source.rooms.state / "swtpm" / self.who.uuid / "tpm2"
        memory.mkdir(parents=True)
        (memory / "tpm2-00.permall").write_bytes(b"remembered")
        (source.rooms.directory(self.who.uuid).path / "nvram.fd").write_bytes(b"variables")
        volume = tmp_path / "volume"
        volume.write_bytes(bytes(MiB))
        info = {"driver_volume_type": "file", "serial": "data", "data": {"path": str(volume), "format": "raw"}}
        one = AttachedVolume("data", info, "vdb", Bus.VIRTIO, serial="data", state=VolumeState.ATTACHED)
        record.save(source.rooms.directory(self.who.uuid).path, one)
        self.monkeypatch = monkeypatch
        (offer,) = self.leave().said
        self.offer = {**offer, "passwords": {"data": "secret"}}
        there = self.receive(self.offer)
        (self.plan,) = there.said
        _, self.go = self.leave(self.plan).said

    def leave(self, *heard: dict[str, Any]) -> Told:
        """What the source says; it ends in an error of ours."""
        peer = Told(*heard)

        @contextmanager
        def channel(*_: Any) -> Iterator[Told]:
            yield peer

        self.monkeypatch.setattr(sending, "channel", channel)
        self.monkeypatch.setattr(sending, "_send_file", lambda *_: None)
        with pytest.raises(CowshedError) as caught:
            self.move.leave()
        peer.why = caught.value
        return peer

    def receive(self, *heard: dict[str, Any]) -> Told:
        """What the destination says; it ends in an error of ours."""
        peer = Told(*heard[1:])
        with pytest.raises(CowshedError) as caught:
            self.move.target.driver.receive(self.who, heard[0], peer)
        peer.why = caught.value
        return peer

    def nothing_there(self) -> None:
        self.move.nothing_at(self.move.target)
        assert self.move.target.keys.held == {}
        assert not list((self.move.target.rooms.state / "swtpm").glob("*"))


@pytest.fixture
def messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Messages:
    return Messages(tmp_path, monkeypatch)


def mangled(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each fact dropped, and with each of the other values; so those in its lines and tables, and one more in these."""
    for name, value in found.items():
        yield name, {key: one for key, one in found.items() if key != name}
        for other in OTHERS:
            yield name, {**found, name: other}
        for path in inside(value):
            for other in (*OTHERS, ...):
                changed = copy.deepcopy(found)
                place: Any = changed[name]
                for key in path[:-1]:
                    place = place[key]
                if other is ...:
                    del place[path[-1]]
                else:
                    place[path[-1]] = other
                yield name, changed
        if isinstance(value, dict):
            yield name, {**found, name: {**value, "more": "x"}}
        elif isinstance(value, list):
            yield name, {**found, name: [*value, "more"]}


def inside(value: Any) -> Iterator[tuple[Any, ...]]:
    """The ways to all that a list or a table holds."""
    for key in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield (key,)
        yield from ((key, *more) for more in inside(value[key]))


def test_they_are_whole(messages: Messages) -> None:
    """Else nothing of the below is shown."""
    assert set(messages.plan["modes"]) == {"disk", "disk.config"}
    assert messages.plan["keys"] == ["disk"] and len(messages.plan["bases"]) == 1
    assert messages.go["nvram"] and messages.go["tpm"] and messages.go["keys"]
    assert isinstance(messages.receive(messages.offer, messages.go).why, Interrupted)
    assert isinstance(messages.leave(messages.plan).why, Interrupted)


def test_an_offer_that_is_mangled(messages: Messages) -> None:
    tried = 0
    for name, offer in mangled(messages.offer):
        if name in ("uuid", "name"):
            continue  # of the call, before the driver hears of it
        tried += 1
        try:
            messages.receive(offer, messages.go)
        except BaseException as error:
            pytest.fail(f"{name}: {offer.get(name)!r}: {error!r}")
        messages.nothing_there()
    assert tried > 300


def test_a_plan_that_is_mangled(messages: Messages, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused before the guest is stopped."""
    stopped: list[str] = []
    monkeypatch.setattr(type(messages.move.source.driver), "_halt", lambda *_: stopped.append("stopped"))
    for name, plan in mangled(messages.plan):
        stopped.clear()
        try:
            peer = messages.leave(plan)
        except BaseException as error:
            pytest.fail(f"{name}: {plan.get(name)!r}: {error!r}")
        assert isinstance(peer.why, InvalidRequest) != bool(stopped), (name, plan.get(name), peer.why)
        assert not messages.move.source.driver.resized(messages.who)


def test_keys_that_are_mangled(messages: Messages) -> None:
    for name, go in mangled(messages.go):
        try:
            messages.receive(messages.offer, go)
        except BaseException as error:
            pytest.fail(f"{name}: {go.get(name)!r}: {error!r}")
        messages.nothing_there()


@pytest.mark.parametrize("of", ["offer", "plan", "go"])
def test_what_is_missing_or_of_another_kind_is_named(messages: Messages, of: str) -> None:
    good = getattr(messages, of)
    for name in set(good) - {"uuid", "name", "go"}:
        for bad in ({key: one for key, one in good.items() if key != name}, {**good, name: 7.5}):
            if of == "plan":
                why = messages.leave(bad).why
            elif of == "offer":
                why = messages.receive(bad).why
            else:
                why = messages.receive(messages.offer, bad).why
            assert isinstance(why, InvalidRequest)
            assert name in str(why)
