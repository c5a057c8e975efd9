"""Migrate data from a control plane that lost or mangled some of it: refused by its name, before anything is made."""

from __future__ import annotations

import base64
import copy
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cowshed.driver.steps import connect, launch, leaving, settling
from cowshed.errors import CowshedError, HypervisorError, InvalidRequest
from cowshed.hypervisor import migrate
from cowshed.migration import data
from cowshed.model.disk import Bus
from cowshed.model.instance import Instance, PowerState
from cowshed.model.volume import AttachedVolume, VolumeState
from cowshed.units import MiB
from cowshed.volumes import record
from cowshed.volumes.local import File
from tests.unit.test_driver_disks import Host

MACHINE = {"cpu": "", "machine": "pc", "arch": "x86_64", "virt_type": "qemu"}
XML = "<domain type='qemu'><name>web</name><devices/></domain>"
OTHERS: tuple[Any, ...] = (None, "x", ["x"], 7, {"x": None})


class Guest:
    name = "web"

    def __init__(self, uuid: str) -> None:
        self.uuid = uuid

    def state(self) -> PowerState:
        return PowerState.RUNNING

    def xml(self, **_: Any) -> str:
        return XML


class Two:
    """A host that an instance leaves, and one that it comes to.

    ``target``, ``source`` and ``prepared``: what those have said, as a control plane carries it.
    """

    def __init__(self, tmp_path: Path) -> None:
        for name in ("here", "there"):
            (tmp_path / name).mkdir()
        self.here, self.there = Host(tmp_path / "here"), Host(tmp_path / "there")
        self.who = self.here.web("qcow2")
        self.guest = Guest(self.who.uuid)
        for host in (self.here, self.there):
            known = {self.who.uuid: self.guest} if host is self.here else {}
            host.rooms.__dict__["hypervisor"] = SimpleNamespace(
                guests=lambda known=known: list(known.values()),
                find=known.get,
                guest=known.get,
                version=lambda: (9, 0, 0),
            )
            host.rooms.__dict__["capabilities"] = SimpleNamespace(
                arch="x86_64", virt_type="qemu", machines={}, emulator="qemu"
            )
        volume = tmp_path / "volume"
        volume.write_bytes(bytes(MiB))
        info = {"driver_volume_type": "file", "serial": "data", "data": {"path": str(volume), "format": "raw"}}
        one = AttachedVolume("data", info, "vdb", Bus.VIRTIO, serial="data", state=VolumeState.ATTACHED)
        record.save(self.here.rooms.directory(self.who.uuid).path, one)
        self.target = sent(self.there.driver.check_can_live_migrate_destination(None, self.who, {}, {}, None))
        self.source = sent(self.here.driver.check_can_live_migrate_source(None, self.who, self.target))
        self.prepared = {**self.source, "xml": XML, "shallow": False, "held": False, "address": ""}

    def at_source(self, found: Any) -> None:
        self.here.driver.check_can_live_migrate_source(None, self.who, found)

    def prepare(self, found: Any) -> None:
        self.there.driver.pre_live_migration(None, self.who, None, [], None, found)

    def move(self, found: Any) -> None:
        self.here.driver.live_migration(None, self.who, "there", lambda *_: None, lambda *_, **__: None, True, found)

    def leave(self, found: Any) -> None:
        self.here.driver.post_live_migration(None, self.who, None, found)


def sent(found: dict[str, Any]) -> dict[str, Any]:
    result = json.loads(json.dumps(found))
    assert isinstance(result, dict)
    return result


@pytest.fixture
def made() -> list[str]:
    """What was begun."""
    return []


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made: list[str]) -> Two:
    monkeypatch.setattr(migrate, "live_xml", lambda guest, **_: XML)
    monkeypatch.setattr(migrate, "check_cpu", lambda *_, **__: None)
    monkeypatch.setattr(leaving, "_machine", lambda guest: MACHINE)
    monkeypatch.setattr(settling, "settle", lambda *_, **__: settling.Verdict.HERE)
    monkeypatch.setattr(File, "disconnect", lambda self, info: None)

    def plug(*_: Any) -> tuple[()]:
        made.append("plugged")
        return ()

    class Migration:
        def __init__(self, *_: Any) -> None:
            made.append("begun")
            raise HypervisorError(action="migrate", reason="the end of the test")

    def ends(*_: Any) -> str:
        raise HypervisorError(action="assemble", reason="the end of the test")

    monkeypatch.setattr(connect, "plug", plug)
    monkeypatch.setattr(migrate, "Migration", Migration)
    monkeypatch.setattr(launch, "assembled", ends)
    return Two(tmp_path)


def mangled(found: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each key dropped, and with each of the other values; those of the lines of disks and volumes, too."""
    for name in found:
        yield name, {key: value for key, value in found.items() if key != name}
        for other in OTHERS:
            yield name, {**found, name: other}
    for name in ("disks", "volumes"):
        for index, line in enumerate(found.get(name, [])):
            for field in line:
                for other in (*OTHERS, ...):
                    changed = copy.deepcopy(found)
                    changed[name][index][field] = other
                    if other is ...:
                        del changed[name][index][field]
                    yield name, changed


@pytest.mark.parametrize(
    ("call", "told"),
    [("at_source", "target"), ("prepare", "source"), ("move", "prepared"), ("leave", "prepared")],
)
def test_nothing_but_typed_errors_comes_out(two: Two, call: str, told: str) -> None:
    tried = 0
    for name, found in mangled(getattr(two, told)):
        tried += 1
        try:
            getattr(two, call)(found)
        except CowshedError:
            pass
        except Exception as error:
            pytest.fail(f"{name}: {found.get(name)!r}: {error!r}")
    assert tried > 40


@pytest.mark.parametrize(("call", "told"), [("at_source", "target"), ("prepare", "source"), ("move", "prepared")])
def test_what_is_of_another_kind_is_named_and_nothing_is_begun(two: Two, made: list[str], call: str, told: str) -> None:
    good = getattr(two, told)
    for name in set(good) - {"version"}:
        for other in (7, {7: 7}):
            with pytest.raises(InvalidRequest, match=rf"\b{name}\b"):
                getattr(two, call)({**good, name: other})
    assert made == []
    assert not two.there.rooms.directory(two.who.uuid).exists()


@pytest.mark.parametrize(
    ("call", "told", "needed"),
    [
        ("at_source", "target", data.OF_TARGET),
        ("prepare", "source", data.OF_SOURCE),
        ("move", "prepared", data.OF_PREPARATION),
    ],
)
def test_what_is_left_out_is_named_and_nothing_is_begun(
    two: Two, made: list[str], call: str, told: str, needed: tuple[str, ...]
) -> None:
    good = getattr(two, told)
    for name in needed:
        with pytest.raises(InvalidRequest, match=rf"lacks {name}\b"):
            getattr(two, call)({key: value for key, value in good.items() if key != name})
    assert made == []


@pytest.mark.parametrize(("call", "told"), [("at_source", "target"), ("prepare", "source"), ("move", "prepared")])
def test_what_is_whole_is_not_refused(two: Two, made: list[str], call: str, told: str) -> None:
    """Else nothing of the above is shown. The two last come to where this test ends them."""
    if call == "prepare":
        with pytest.raises(HypervisorError, match="the end of the test"):
            two.prepare(two.source)
        assert made == ["plugged"]
    else:
        getattr(two, call)(getattr(two, told))
        assert made == (["begun"] if call == "move" else [])


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("records", {"../x.json": "{}"}, "../x.json"),
        ("records", {"disk": "{}"}, "'disk'"),
        ("content", {"disk.config": "no base64"}, "disk.config"),
        ("content", {"disk.config": base64.b64encode(b"not packed").decode()}, "disk.config"),
        ("content", {"disk.config": base64.b64encode(zlib.compress(bytes(9 * MiB))).decode()}, "too large"),
        ("content", {"disk.config": base64.b64encode(zlib.compress(bytes(MiB))[:-9]).decode()}, "cut off"),
    ],
)
def test_what_it_holds_is_looked_at_before_anything_is_made(
    two: Two, made: list[str], name: str, value: Any, says: str
) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(says)):
        two.prepare({**two.source, name: value})
    assert made == []


def test_a_probe_of_another_kind_is_no_probe(two: Two) -> None:
    for found in mangled(two.target):
        two.there.driver.check_can_live_migrate_destination_cleanup(None, found[1])


@pytest.mark.parametrize("version", ["new", ["x"], {"x": None}, float("inf"), "7.2.0", True])
def test_a_version_that_is_no_number_is_refused(two: Two, version: Any) -> None:
    with pytest.raises(InvalidRequest, match="hypervisor_version"):
        two.there.driver.check_can_live_migrate_destination(None, two.who, {"hypervisor_version": version}, {}, None)


@pytest.mark.parametrize("said", [{"hypervisor_version": "7002000"}, {"hypervisor_version": None}, {}, None, "x"])
def test_a_version_may_be_a_word_or_unknown(two: Two, said: Any) -> None:
    two.there.driver.check_can_live_migrate_destination(None, two.who, said, {}, None)


def test_the_instance_is_whole(two: Two) -> None:
    """What the pretended guest has is what the checks tell of."""
    assert isinstance(two.who, Instance)
    assert set(two.source["copied"]) == {"disk"}
    assert set(two.source["content"]) == {"disk.config"}
    assert [one["id"] for one in two.source["volumes"]] == ["data"]
    assert two.source["records"]
