"""``cowshed disk`` on a pretended guest with real disks in files: what is printed, asked, refused."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path

import click
import pytest

from cowshed.cli.context import backend_names, disk_names
from cowshed.driver.rooms import Rooms
from cowshed.driver.steps import layout
from cowshed.manager.records import Records
from cowshed.model.image import Image
from cowshed.model.instance import PowerState
from cowshed.testing import MemoryCluster
from cowshed.tools.run import run
from cowshed.units import MiB
from tests.unit.test_cli_verbs import Command, cowshed, refused, tiny, web

__all__ = ["cowshed", "tiny", "web"]  # fixtures

SIZE = 4 * MiB


@pytest.fixture
def rooms(cowshed: Command, web: str) -> Rooms:
    return cowshed.driver.rooms


@pytest.fixture
def stopped(cowshed: Command, web: str, tmp_path: Path) -> str:
    """``web`` with a root disk on qcow2 and one on raw for swap, stopped."""
    rooms = cowshed.driver.rooms
    record = Records(rooms.state / "cowshed.db").find("web")
    from dataclasses import replace

    flavor = replace(record.instance.flavor, root=SIZE, swap=MiB)
    plan = layout.plan(rooms, replace(record.instance, flavor=flavor), Image("i"), None)
    rooms.directory(record.uuid).create()
    layout.remember(rooms, record.instance, plan)
    for name, backend in (("disk", "qcow2"), ("disk.swap", "raw")):
        path = tmp_path / name
        path.write_bytes(os.urandom(MiB))
        rooms.backends[backend].disk(record.uuid, name).import_file(path)  # type: ignore[attr-defined]
    assert cowshed("stop", "web").code == 0
    return "web"


def run_it(cowshed: Command, state: PowerState = PowerState.RUNNING) -> None:
    for identity in cowshed.power:
        cowshed.power[identity] = state


# --- look -----------------------------------------------------------------------------------------


def test_ls(cowshed: Command, stopped: str) -> None:
    rows = cowshed("disk", "ls", "-o", "json").json["disks"]
    assert [(row["instance"], row["name"], row["backend"], row["format"], row["size"], row["target"]) for row in rows] == [
        ("web", "disk", "qcow2", "qcow2", MiB, "vda"),
        ("web", "disk.swap", "raw", "raw", MiB, "vdb"),
    ]  # fmt: skip
    assert cowshed("disks", "list", "web").out.splitlines()[0].split()[:4] == ["INSTANCE", "DISK", "TARGET", "BACKEND"]
    assert cowshed("disk", "ls", "web", "-q").out == "disk\ndisk.swap\n"
    refused(cowshed("disk", "ls", "nobody"), 3, "nobody")


def test_show(cowshed: Command, stopped: str) -> None:
    assert cowshed("disk", "show", "web", "-o", "json").json["disk"]["name"] == "disk"
    shown = cowshed("disk", "show", "web", "vdb").out
    assert "disk.swap" in shown
    assert "1 MiB" in shown
    refused(cowshed("disk", "show", "web", "tape"), 3, "tape", "disk, disk.swap")


def test_show_of_the_instance_names_its_disks(cowshed: Command, stopped: str) -> None:
    disks = cowshed("show", "web", "-o", "json").json["instance"]["disks"]
    assert [(one["name"], one["backend"], Path(one["path"]).name) for one in disks] == [
        ("disk", "qcow2", "disk"), ("disk.swap", "raw", "disk.swap"),
    ]  # fmt: skip


def test_an_instance_with_a_disk_on_a_backend_that_is_gone_is_shown_all_the_same(
    cowshed: Command, stopped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cowshed.disks import manifest

    record = Records(cowshed.driver.rooms.state / "cowshed.db").find("web")
    place = cowshed.driver.rooms.directory(record.uuid).path
    with manifest.editing(place) as disks:
        from dataclasses import replace

        disks["disk.swap"] = replace(disks["disk.swap"], backend="rbd", location=f"pool/{record.uuid}_disk.swap")
    result = cowshed("show", "web", "-o", "json")
    assert (result.code, result.json["instance"]["name"]) == (0, "web")
    assert "[rbd] pool" in result.err
    refused(cowshed("disk", "ls", "web"), 2, "[rbd] pool", "COWSHED_RBD_POOL")
    result = cowshed("rm", "web", "--yes")
    assert cowshed("ls", "-q").out == "" or result.code == 2


# --- resize ---------------------------------------------------------------------------------------


def test_resize(cowshed: Command, stopped: str) -> None:
    assert cowshed("disk", "resize", "web", "2M", "-o", "json").json["disk"]["size"] == 2 * MiB
    assert cowshed("disk", "resize", "web", "swap", "+1M", "-o", "json").json["disk"]["size"] == 2 * MiB
    refused(cowshed("disk", "resize", "web", "1M"), 8, "disk")
    refused(cowshed("disk", "resize", "web", "much"), 2, "much")
    assert cowshed("disk", "resize", "web", "a", "b", "1M").code == 2
    assert cowshed("disk", "resize", "web").code == 2
    details = [event["detail"] for event in cowshed("events", "-o", "json").json["events"]]
    assert details[-2:] == ["disk to 2 MiB", "disk.swap to 2 MiB"]


# --- move -----------------------------------------------------------------------------------------


def test_move(cowshed: Command, stopped: str) -> None:
    assert cowshed("disk", "move", "web", "--to", "raw", "-o", "json").json["disk"]["backend"] == "raw"
    assert cowshed("disk", "move", "web", "swap", "--to", "qcow2", "-o", "json").json["disk"]["backend"] == "qcow2"
    assert cowshed("disk", "move", "web", "swap", "--to", "qcow2").code == 0  # it is there
    record = Records(cowshed.driver.rooms.state / "cowshed.db").find("web")
    assert record.instance.disk_backends == {"disk": "raw", "disk.swap": "qcow2"}
    refused(cowshed("disk", "move", "web", "--to", "lvm"), 2, "[lvm] volume_group")
    refused(cowshed("disk", "move", "web", "--to", "tape"), 2, "tape", "qcow2")
    assert cowshed("disk", "move", "web").code == 2
    assert [event["event"] for event in cowshed("events", "-o", "json").json["events"]][-2:] == ["disk moved"] * 2


def test_move_of_all_disks(cowshed: Command, stopped: str) -> None:
    rows = cowshed("disk", "move", "web", "--all", "--to", "raw", "-o", "json").json["disks"]
    assert [(row["name"], row["backend"]) for row in rows] == [("disk", "raw"), ("disk.swap", "raw")]
    refused(cowshed("disk", "move", "web", "swap", "--all", "--to", "raw"), 2, "--all")


def test_move_tells_how_far_it_is(cowshed: Command, stopped: str) -> None:
    phases = [
        json.loads(line)["phase"]
        for line in cowshed("disk", "move", "web", "--to", "raw", "--progress", "json").err.splitlines()
    ]
    assert list(dict.fromkeys(phases)) == ["extract", "verify", "import"]


def test_an_interrupted_move_leaves_the_disk_as_it_was(
    cowshed: Command, stopped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cowshed.driver.steps import moving

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(moving, "_compare", interrupted)
    result = cowshed("disk", "move", "web", "--to", "raw")
    assert (result.code, result.out, result.err.splitlines()[-1]) == (130, "", "interrupted")
    rows = cowshed("disk", "ls", "web", "-o", "json").json["disks"]
    assert [(row["name"], row["backend"]) for row in rows] == [("disk", "qcow2"), ("disk.swap", "raw")]
    place = Path(rows[0]["location"]).parent
    assert sorted(path.name for path in place.iterdir()) == ["disk", "disk.swap", "layout.json", "manifest.json"]


# --- snapshots ------------------------------------------------------------------------------------


def test_snapshots(cowshed: Command, stopped: str) -> None:
    made = cowshed("disk", "snapshot", "create", "web", "before", "-o", "json")
    assert [row["disk"] for row in made.json["snapshots"]] == ["disk", "disk.swap"]
    assert cowshed("disk", "snapshot", "create", "web", "swap", "more").code == 0
    rows = cowshed("disk", "snapshot", "ls", "web", "-o", "json").json["snapshots"]
    assert [(row["disk"], row["name"]) for row in rows] == [
        ("disk", "before"), ("disk.swap", "before"), ("disk.swap", "more"),
    ]  # fmt: skip
    assert len(cowshed("disk", "snapshot", "ls", "web", "swap").out.splitlines()) == 3
    assert cowshed("disk", "snapshot", "ls", "-o", "json").json["snapshots"] == rows  # of all instances
    assert {row["instance"] for row in rows} == {"web"}
    refused(cowshed("disk", "snapshot", "ls", "gone"), 3, "instance gone does not exist")
    refused(cowshed("disk", "snapshot", "create", "web", "before"), 4, "snapshot before of disk of instance web exists")
    refused(cowshed("disk", "snapshot", "create", "web", "swap"), 2, "swap is a disk")
    refused(cowshed("disk", "snapshot", "rollback", "web", "before"), 2, "--yes")
    refused(cowshed("disk", "snapshot", "rollback", "web", "more", "--yes"), 3, "more")
    assert cowshed("disk", "snapshot", "rollback", "web", "before", "--yes", "-q").out == "before\nbefore\n"
    refused(cowshed("disk", "snapshot", "rm", "web", "swap", "more"), 2, "--yes")
    assert cowshed("disk", "snapshot", "rm", "web", "swap", "more", "--yes").code == 0
    assert cowshed("disk", "snapshot", "rm", "web", "before", "-y").code == 0
    assert cowshed("disk", "snapshot", "ls", "web", "-q").out == ""
    refused(cowshed("disk", "snapshot", "rm", "web", "before", "-y"), 3, "before")
    assert cowshed("disk", "snapshot", "rollback", "web", "--yes").code == 2


def test_a_snapshot_without_a_name_is_called_by_its_time(cowshed: Command, stopped: str) -> None:
    assert cowshed("disk", "snapshot", "create", "web").code == 0
    names = {row["name"] for row in cowshed("disk", "snapshot", "ls", "web", "-o", "json").json["snapshots"]}
    (name,) = names
    assert len(name) == 15
    assert name.replace("-", "").isdigit()


# --- export ---------------------------------------------------------------------------------------


def test_export(cowshed: Command, stopped: str, tmp_path: Path) -> None:
    out = tmp_path / "out.qcow2"
    made = cowshed("disk", "export", "web", out, "--compress", "-o", "json").json["file"]
    assert (made["name"], made["format"], made["size"]) == (str(out), "qcow2", out.stat().st_size)
    assert cowshed("disk", "export", "web", "swap", tmp_path / "out.raw", "--format", "raw").code == 0
    for name, expected in (("named.raw", "raw"), ("named.img", "qcow2")):
        assert (
            cowshed("disk", "export", "web", "swap", tmp_path / name, "-o", "json").json["file"]["format"] == expected
        )
    with (tmp_path / "named.raw").open("rb") as file:
        assert file.read(4) != b"QFI\xfb"
    assert (tmp_path / "out.raw").stat().st_size == MiB
    refused(cowshed("disk", "export", "web", out), 4, "out.qcow2")
    refused(cowshed("disk", "export", "web", tmp_path / "x.vmdk"), 2, "not vmdk")
    assert not (tmp_path / "x.vmdk").exists()
    refused(cowshed("disk", "export", "web", tmp_path / "x", "--format", "raw", "--compress"), 2, "compress")
    refused(cowshed("disk", "export", "web", tmp_path / "no" / "x"), 3, "no")
    assert sorted(path.name for path in tmp_path.glob("*out*")) == ["out.qcow2", "out.raw"]


def test_an_encrypted_disk_is_exported_encrypted_with_its_key_beside(
    cowshed: Command, stopped: str, rooms: Rooms, tmp_path: Path
) -> None:
    identity = Records(rooms.state / "cowshed.db").find("web").uuid
    content = os.urandom(MiB)
    (tmp_path / "content").write_bytes(content)
    found = rooms.backends["qcow2"].disk(identity, "disk")
    found.delete()
    found.import_file(tmp_path / "content", encrypt=True)  # type: ignore[attr-defined]
    assert "encrypted" in cowshed("show", "web").out
    assert cowshed("disk", "export", "web", tmp_path / "out", "--key-file", tmp_path / "key").code == 0
    assert content[:4096] not in (tmp_path / "out").read_bytes()
    key = (tmp_path / "key").read_bytes()
    assert [key] == [path.read_bytes() for path in (rooms.state / "keys").iterdir()]
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    opened = f"driver=qcow2,encrypt.format=luks,encrypt.key-secret=k,file.driver=file,file.filename={tmp_path}/out"
    secret = f"secret,id=k,file={tmp_path}/key"
    run(["qemu-img", "convert", "--object", secret, "--image-opts", "-O", "raw", opened, tmp_path / "back"], timeout=60)
    assert (tmp_path / "back").read_bytes() == content
    assert cowshed("disk", "export", "web", tmp_path / "plain", "--plaintext", "--format", "raw").code == 0
    assert (tmp_path / "plain").read_bytes() == content
    refused(cowshed("disk", "export", "web", tmp_path / "x", "--key-file", tmp_path / "key"), 4, "key")
    refused(cowshed("disk", "export", "web", tmp_path / "x", "--plaintext", "--key-file", tmp_path / "y"), 2, "no key")
    refused(cowshed("disk", "export", "web", "swap", tmp_path / "x", "--key-file", tmp_path / "y"), 2, "not encrypted")
    refused(cowshed("disk", "export", "web", tmp_path / "x", "--compress"), 2, "ciphertext")
    assert not (tmp_path / "x").exists()
    assert not (tmp_path / "y").exists()


# --- a running guest ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ("move", "web", "--to", "raw"),
        ("export", "web", "/nowhere/out"),
        ("snapshot", "create", "web", "a"),
        ("snapshot", "rollback", "web", "there", "--yes"),
        ("snapshot", "rm", "web", "there", "--yes"),
    ],
)
def test_a_running_instance_is_not_touched(cowshed: Command, stopped: str, words: tuple[str, ...]) -> None:
    assert cowshed("disk", "snapshot", "create", "web", "there").code == 0
    run_it(cowshed)
    refused(cowshed("disk", *words), 4, "web is running", "cowshed stop web")
    assert [row["name"] for row in cowshed("disk", "snapshot", "ls", "web", "-o", "json").json["snapshots"]] == [
        "there"
    ] * 2


# --- where disks shall be -------------------------------------------------------------------------


def test_run_with_a_backend_a_disk(cowshed: Command, tiny: Path) -> None:
    assert (
        cowshed("run", "tiny", "--name", "one", "--swap", "8M", "--backend", "raw", "--disk-backend", "swap=qcow2").code
        == 0
    )
    instance = cowshed.driver.spawned[0]
    assert (instance.backend, instance.disk_backends) == ("raw", {"swap": "qcow2"})
    refused(cowshed("run", "tiny", "--disk-backend", "swap"), 2, "swap=raw")
    refused(cowshed("run", "tiny", "--disk-backend", "swap=tape"), 2, "tape")
    refused(cowshed("run", "tiny", "--backend", "rbd"), 2, "[rbd] pool", "COWSHED_RBD_POOL")


def test_run_with_a_default_that_is_not_configured(
    cowshed: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COWSHED_DISKS_BACKEND", "lvm")
    refused(cowshed("run", "tiny", "--name", "one"), 2, "[lvm] volume_group")
    assert cowshed("ls", "-q").out == ""


# --- bases, completion ----------------------------------------------------------------------------


def test_bases_of_the_cache_and_of_backends_are_listed_and_pruned(
    cowshed: Command, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters: list[MemoryCluster] = []
    real = Rooms.backends.func  # type: ignore[attr-defined]

    def backends(rooms: Rooms) -> dict[str, object]:
        if not clusters:
            clusters.append(MemoryCluster("rbd", instances=rooms.instances))
        return {**real(rooms), "rbd": clusters[0]}

    monkeypatch.setattr(Rooms, "backends", property(backends))
    assert cowshed("image", "ls", "--bases").out.splitlines()[0].split()[0] == "BASE"
    from cowshed.driver.steps import bases

    driver = cowshed.driver
    image = driver.images.show("tiny")
    driver.rooms.backends["raw"].disk(str(uuid.uuid4()), "disk").create(
        MiB, bases.cached(driver.rooms, driver.rooms.backends["raw"], image)
    )
    disk = driver.rooms.backends["qcow2"].disk(str(uuid.uuid4()), "disk")
    bases.make(driver.rooms, driver.rooms.backends["qcow2"], disk, image, MiB)
    bases.keep(driver.rooms, driver.rooms.backends["rbd"], image)
    rows = cowshed("image", "ls", "--bases", "-o", "json").json["bases"]
    assert [(row["image"], row["where"], row["users"]) for row in rows] == [("tiny", "cache", 1), ("tiny", "rbd", 0)]
    assert "rbd: " in cowshed("image", "show", "tiny").out
    gone = cowshed("image", "prune", "--yes", "-o", "json").json["bases"]
    assert [(row["where"], row["reason"]) for row in gone] == [("rbd", "unused")]
    assert clusters[0].kept == {}


def test_completion_of_disks_and_backends(cowshed: Command, stopped: str) -> None:
    context = click.Context(click.Command("x"))
    context.params["instance"] = "web"
    parameter = click.Argument(["disk"])
    assert disk_names(context, parameter, "disk.") == ["disk.swap"]
    context.params["instance"] = "nobody"
    assert disk_names(context, parameter, "") == []
    assert backend_names(context, parameter, "qc") == ["qcow2"]


def test_help_of_every_verb(cowshed: Command) -> None:
    for words in (
        ("disk",),
        ("disk", "snapshot"),
        *(("disk", verb) for verb in ("ls", "show", "resize", "move", "export")),
    ):
        result = cowshed(*words, "--help")
        assert result.code == 0
        assert "Usage: cowshed disk" in result.out


# --- limits ---------------------------------------------------------------------------------------


def test_disk_limit(cowshed: Command, stopped: str) -> None:
    assert cowshed("disk", "limit", "web").out == "instance  web\ndisk      disk\nlimits    none\n"
    given = cowshed("disk", "limit", "web", "--total-iops", "500", "--read-bytes", "10M", "--write-bytes", "1G")
    assert (given.code, given.err) == (0, "")
    shown = cowshed("disk", "limit", "web", "root", "--total-iops-max", 900, "--total-iops-max-length", 5, "-o", "json")
    assert shown.err == ""
    assert shown.json["disk"] == {
        "instance": "web",
        "disk": "disk",
        "limits": {
            "read_bytes_sec": 10 << 20,
            "write_bytes_sec": 1 << 30,
            "total_iops_sec": 500,
            "total_iops_sec_max": 900,
            "total_iops_sec_max_length": 5,
        },
    }
    assert "read_bytes_sec: 10 MiB/s" in cowshed("disk", "limit", "web").out
    assert cowshed("disk", "limit", "web", "--clear", "--group", "one", "--write-iops", 7, "--io-size", "4K").code == 0
    assert cowshed("disk", "limit", "web", "-o", "json").json["disk"]["limits"] == {
        "write_iops_sec": 7,
        "size_iops_sec": 4096,
        "group_name": "one",
    }
    assert cowshed("disk", "show", "web", "-o", "json").json["disk"]["limits"]["write_iops_sec"] == 7
    assert "write_iops_sec 7/s" in cowshed("show", "web").out
    assert cowshed("disk", "show", "web", "vdb", "-o", "json").json["disk"]["limits"] == {}
    assert "limits    none" in cowshed("disk", "limit", "web", "--clear").out
    events = [(one["event"], one["detail"]) for one in cowshed("events", "web", "-o", "json").json["events"]]
    assert [detail for event, detail in events if event == "disk limited"] == [
        first := "disk: read_bytes_sec 10 MiB/s, write_bytes_sec 1 GiB/s, total_iops_sec 500/s",
        f"{first}, total_iops_sec_max 900/s, total_iops_sec_max_length 5 s",
        "disk: write_iops_sec 7/s, size_iops_sec 4096, group_name one",
        "disk: none",
    ]


def test_disk_limit_refuses(cowshed: Command, stopped: str) -> None:
    refused(cowshed("disk", "limit", "web", "--total-iops", "5", "--read-iops", "5"), 2, "read_iops_sec contradicts it")
    refused(cowshed("disk", "limit", "web", "--total-iops", "many"), 2, "'many' is not a whole number")
    refused(cowshed("disk", "limit", "web", "--read-bytes", "fast"), 2, "'fast'")
    refused(cowshed("disk", "limit", "web", "vdz"), 3, "vdz")
