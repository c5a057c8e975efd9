"""``cowshed volume`` and the library's volumes on the fake driver: what is asked of it, printed and refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cowshed.errors import NameTaken, NotFound
from cowshed.manager.host import Host
from cowshed.manager.volumes import Options
from cowshed.testing import FakeDriver
from cowshed.units import MiB
from tests.fake_command import Call, cowshed, empty

__all__ = ["cowshed", "empty"]  # fixtures


@pytest.fixture
def driver(empty: FakeDriver) -> FakeDriver:
    """With the instance web."""
    Host.connect().run("debian", name="web", memory="64M")
    return empty


def only(driver: FakeDriver) -> tuple[str, Any]:
    ((name, info),) = driver.guest("web").volumes.items()
    return name, info


def test_a_volume_is_attached_with_all_that_was_said(cowshed: Call, driver: FakeDriver, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("chap-secret\n")
    code, out, _ = cowshed(
        *("volume", "attach", "web", "iscsi://192.0.2.1/iqn.2025-01.org.example:a/3", "--device", "vdk", "--id", "v-1"),
        *("--user", "me", "--password-file", secret, "--read-only", "--shared", "--discard", "--block-size", 4096),
        *("--limit", "total_iops_sec=500", "--tag", "scratch", "--cache", "directsync", "-o", "json"),
    )
    assert code == 0
    name, info = only(driver)
    assert name == "vdk"
    assert info["data"] == {
        "target_portal": "192.0.2.1:3260",
        "target_iqn": "iqn.2025-01.org.example:a",
        "target_lun": 3,
        "auth_method": "CHAP",
        "auth_username": "me",
        "auth_password": "chap-secret",
        "access_mode": "ro",
        "discard": True,
        "cache": "directsync",
        "logical_block_size": 4096,
        "physical_block_size": 4096,
        "qos_specs": {"total_iops_sec": "500"},
    }
    assert (info["serial"], info["multiattach"], info["tag"]) == ("v-1", True, "scratch")
    shown = json.loads(out)["volume"]
    assert shown["source"] == "iscsi://192.0.2.1:3260/iqn.2025-01.org.example:a/3"
    assert (shown["instance"], shown["id"], shown["read_only"], shown["shared"]) == ("web", "v-1", True, True)
    assert "chap-secret" not in out


def test_volumes_are_listed_and_found_by_id_or_device(cowshed: Call, driver: FakeDriver) -> None:
    assert cowshed("volume", "ls", "web")[1].startswith("INSTANCE")
    for number in (1, 2):
        assert cowshed("volume", "attach", "web", f"nbd://192.0.2.1/{number}", "--id", f"store-v-{number}")[0] == 0
    code, out, _ = cowshed("volumes", "ls")
    assert code == 0
    assert [line.split()[:3] for line in out.splitlines()[1:]] == [
        ["web", "store-v-1", "vdb"],
        ["web", "store-v-2", "vdc"],
    ]
    assert "nbd://192.0.2.1:10809/1" in out
    code, out, _ = cowshed("volume", "extend", "web", "vdc", "64M", "-o", "json")
    assert (code, json.loads(out)["volume"]["size"]) == (0, 64 * MiB)
    assert cowshed("volume", "detach", "web", "store-v-")[0] == 4  # both begin so
    assert cowshed("volume", "detach", "web", "/dev/vdb", "--wait", "5s")[0] == 0
    assert cowshed("volume", "detach", "web", "vdb")[0] == 3
    assert cowshed("volume", "detach", "web", "store-v-2", "-q")[1] == "store-v-2\n"
    events = [entry.event for entry in Host.connect().events()]
    assert events[-4:] == ["volume attached", "volume extended", "volume detached", "volume detached"]


def test_the_size_that_was_seen_last_is_told_as_such(cowshed: Call, driver: FakeDriver) -> None:
    cowshed("volume", "attach", "web", "nbd://store.example/export", "--id", "v-1")
    driver.guest("web").sizes["v-1"] = 3 * MiB
    assert "  3 MiB  -  " in cowshed("volume", "ls", "web")[1]
    cowshed("stop", "--force", "web")
    assert "  3 MiB (last seen)  -  " in cowshed("volume", "ls", "web")[1]
    (one,) = json.loads(cowshed("volume", "ls", "web", "-o", "json")[1])["volumes"]
    assert (one["size"], one["size_current"]) == (3 * MiB, False)
    driver.guest("web").sizes.clear()
    (one,) = json.loads(cowshed("volume", "ls", "web", "-o", "json")[1])["volumes"]
    assert (one["size"], one["size_current"]) == (None, False)


def test_a_guest_that_keeps_its_volume_is_exit_code_7(cowshed: Call, driver: FakeDriver) -> None:
    cowshed("volume", "attach", "web", "nbd://192.0.2.1/x")
    driver.guest("web").deaf = True
    code, _, err = cowshed("volume", "detach", "web", "vdb", "--wait", "1s")
    assert code == 7
    assert "letting go" in err
    assert driver.guest("web").volumes


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["none", "nbd://h/x"], 3),
        (["web", "gopher://h/x"], 6),
        (["web", "nbd:///x"], 2),
        (["web", "nbd://h:99999/x"], 2),
        (["web", "nbd+unix:///x"], 2),
        (["web", "iscsi://h/iqn.x:y"], 2),
        (["web", "iscsi://me:secret@h/iqn.x:y/1"], 2),
        (["web", "rbd:image"], 2),
        (["web", "/nowhere/x.qcow2"], 3),
        (["web", "/dev/null"], 2),
        (["web", "/etc/passwd"], 2),  # a file, and no format is given
        (["web", "nbd://h/x", "--format", "qcow2"], 2),
        (["web", "nbd://h/x", "--limit", "total_iop=1"], 2),
        (["web", "nbd://h/x", "--limit", "total_iops_sec=many"], 2),
        (["web", "nbd://h/x", "--id", "../x"], 2),
        (["web", "nbd://h/x", "--user", "me", "--password-file", "/nowhere/secret"], 2),
    ],
)
def test_wrong_words_are_refused_before_anything_happens(
    cowshed: Call, driver: FakeDriver, words: list[str], code: int
) -> None:
    got, out, err = cowshed("volume", "attach", *words)
    assert (got, out) == (code, "")
    assert err.startswith("cowshed: ")
    assert "Traceback" not in err
    assert not driver.guest("web").volumes
    assert "attach_volume" not in [call.name for call in driver.calls]


def test_the_library_has_the_same(driver: FakeDriver, tmp_path: Path) -> None:
    file = tmp_path / "data.img"
    file.write_bytes(b"x")
    with Host.connect() as host:
        vm = host.machine("web")
        seen = vm.attach_volume(str(file), format="raw", options=Options(read_only=True))
        assert seen.volume.connection_info["data"] == {"path": str(file), "format": "raw", "access_mode": "ro"}
        with pytest.raises(NameTaken):
            vm.attach_volume(str(file), format="raw", options=Options(device="vdb"))
        assert [one.volume.id for one in vm.volumes()] == [seen.volume.id]
        assert vm.extend_volume("vdb", "8M").size == 8 * MiB
        vm.detach_volume(seen.volume.id)
        assert vm.volumes() == []
        with pytest.raises(NotFound):
            vm.detach_volume("vdb")
