"""``cowshed run --root-volume`` and what else it takes since: words into calls, on the fake driver."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cowshed.cli import words
from cowshed.errors import InvalidRequest
from cowshed.manager.host import Host
from cowshed.manager.volumes import NewVolume, Options
from cowshed.testing import FakeDriver
from tests.fake_command import Call, cowshed, driver, empty

__all__ = ["cowshed", "driver", "empty"]  # fixtures


def test_it_boots_from_a_volume_and_says_so(cowshed: Call, driver: FakeDriver) -> None:
    code, out, err = cowshed(
        *("run", "--root-volume", "nbd://192.0.2.1/root,id=store-root-1", "--volume", "nbd://192.0.2.1/data,read-only"),
        *("--name", "web", "--network", "none", "--property", "hw_disk_bus=scsi", "-o", "json"),
    )
    assert code == 0, err
    made = json.loads(out)["instance"]
    assert (made["image"], made["root_volume"]) == ("", "store-root-1")
    guest = driver.guest("web")
    assert (guest.image.id, dict(guest.image.properties)) == ("", {"hw_disk_bus": "scsi"})
    assert guest.root == "/dev/vda"
    assert guest.volumes["/dev/vda"]["serial"] == "store-root-1"
    assert guest.volumes["/dev/vdb"]["data"]["access_mode"] == "ro"
    assert "volume:store-ro" in cowshed("ls")[1]
    shown = json.loads(cowshed("show", "web", "-o", "json")[1])["instance"]
    assert [(one["device"], one["root"]) for one in shown["volumes"]] == [("vda", True), ("vdb", False)]
    assert shown["disks"] == []
    assert "root" in cowshed("volume", "ls")[1]
    assert "boots from volume store-root-1" in cowshed("disk", "ls")[2]
    assert [entry.detail for entry in Host.connect().events()] == ["from volume store-root-1"]

    code, _, err = cowshed("volume", "detach", "web", "vda")
    assert (code, "cowshed rm web removes the instance and keeps its volumes" in err) == (4, True)
    code, _, err = cowshed("resize", "web", "--disk", "20G")
    assert (code, "cowshed volume extend web vda" in err) == (2, True)
    assert cowshed("volume", "detach", "web", "vdb")[0] == 0
    assert cowshed("rm", "--yes", "web")[0] == 0


@pytest.mark.parametrize(
    ("given", "code", "said"),
    [
        ([], 2, "nothing to boot from"),
        (["debian", "--root-volume", "nbd://h/x"], 2, "image debian would not be used"),
        (["--root-volume", "nbd://h/x", "--disk", "5G"], 2, "no root disk"),
        (["--root-volume", "/nowhere/x,format=raw"], 3, "does not exist"),
        (["--root-volume", "/etc/passwd"], 2, ",format=raw to a volume of run"),
        (["--root-volume", "nbd://h/x,shard"], 2, "shard is no option"),
        (["--root-volume", "nbd://h/x,fromat=raw"], 2, "fromat=raw is no option"),
        (["debian", "--volume", "nbd://h/x,block-size=4K"], 2, "not a number of bytes"),
        (["debian", "--volume", "iscsi://h/iqn.2025-01.org.example:a/1,password-file=/nowhere"], 2, "cannot be read"),
        (["debian", "--secure-boot", "--firmware", "bios"], 2, "no secure boot"),
        (["debian", "--firmware", "bios", "--property", "hw_firmware_type=uefi"], 2, "--firmware bios contradicts"),
        (["debian", "--secure-boot", "--property", "hw_firmware_type=bios"], 2, "--secure-boot contradicts"),
        (["debian", "--secure-boot", "--property", "os_secure_boot=disabled"], 2, "--secure-boot contradicts"),
        (["debian", "--machine", "pc", "--property", "hw_machine_type=q35"], 2, "--machine pc contradicts"),
        (["debian", "--disk-bus", "scsi", "--property", "hw_disk_bus=ide"], 2, "--property hw_disk_bus=ide"),
        (
            ["debian", "--kernel", "k", "--cmdline", "a", "--property", "os_command_line=b"],
            2,
            "--cmdline a contradicts",
        ),
        (["debian", "--property", "a=1", "--property", "a=2"], 2, "a is given twice: 1 and 2"),
        (["debian", "--disk-backend", "swap=raw", "--disk-backend", "swap=qcow2"], 2, "swap is given twice"),
        (["debian", "--limit", "cpu_shares=5", "--limit", "cpu_shares=6"], 2, "cpu_shares is given twice"),
        (["debian", "--network", "none", "--group", "servers"], 2, "no interface that the group servers would filter"),
        (["debian", "--network", "none", "--ip", "10.0.0.5/24"], 2, "more IP addresses than networks"),
        (["debian", "--ip", "10.0.0.5/24", "--ip", "10.0.0.6/24"], 2, "more IP addresses than networks"),
        (["debian", "--ip", "10.0.0.5"], 2, "how large its network is"),
        (["debian", "--ip", "10.0.0/24"], 2, "not an IP address"),
        (["debian", "--ip", "10.0.0.5/24,10.0.1.1"], 2, "not another address of 10.0.0.0/24"),
        (["debian", "--ip", "10.0.0.5/24,gateway"], 2, "not an IP address"),
    ],
)
def test_wrong_words_are_refused_before_anything_happens(
    cowshed: Call, driver: FakeDriver, given: list[str], code: int, said: str
) -> None:
    cowshed("group", "create", "servers")
    got, out, err = cowshed("run", *given, "--name", "web")
    assert (got, out) == (code, "")
    assert said in err
    assert len(err.splitlines()) <= 2
    assert "spawn" not in [call.name for call in driver.calls]
    assert cowshed("ls", "-q")[1] == ""


def test_words_of_volumes(tmp_path: Path) -> None:
    odd = tmp_path / "one,two=three"
    odd.touch()
    assert words.wanted(f"{odd},format=raw") == NewVolume(str(odd), format="raw")
    everything = (
        "iscsi://h/iqn.2025-01.org.example:a/1,user=me,id=v-1,device=vdk,bus=scsi,type=lun,cache=none,tag=t,key=k,"
        "block-size=4096,read-only,shared,discard,total_iops_sec=5"
    )
    assert words.wanted(everything) == NewVolume(
        "iscsi://h/iqn.2025-01.org.example:a/1",
        user="me",
        volume_id="v-1",
        options=Options(
            "vdk", "scsi", "lun", True, True, True, "none", 4096, 4096, {"total_iops_sec": "5"}, key_id="k", tag="t"
        ),
    )
    with pytest.raises(InvalidRequest, match="is no option"):
        words.wanted("/dev/vg/root,readonly")


def test_tpm_secure_boot_and_addresses(cowshed: Call, driver: FakeDriver) -> None:
    code, _, err = cowshed(
        *("run", "debian", "--name", "web", "--tpm", "--secure-boot", "--network", "bridge:br0", "--network", "user"),
        *("--ip", "10.0.0.5/24,10.0.0.1"),
    )
    assert code == 0, err
    guest = driver.guest("web")
    assert dict(guest.image.properties) == {
        "hw_tpm_version": "2.0", "hw_firmware_type": "uefi", "os_secure_boot": "required",
    }  # fmt: skip
    first, second = guest.vifs
    (subnet,) = first.subnets
    assert (subnet.cidr, subnet.address, subnet.gateway) == ("10.0.0.0/24", "10.0.0.5", "10.0.0.1")
    assert second.subnets == ()
    cowshed("run", "debian", "--name", "two", "--tpm", "--property", "hw_tpm_version=1.2", "--network", "none")
    assert driver.guest("two").image.properties["hw_tpm_version"] == "1.2"


def test_what_is_said_twice_alike_is_no_contradiction(cowshed: Call, driver: FakeDriver) -> None:
    words = ("--firmware", "uefi", "--property", "hw_firmware_type=uefi", "--property", "hw_firmware_type=uefi")
    cowshed("group", "create", "servers")
    networks = ("--network", "none", "--network", "bridge:br0", "--group", "servers")
    code, _, err = cowshed("run", "debian", "--name", "web", *words, *networks)
    assert code == 0, err
    assert driver.guest("web").image.properties["hw_firmware_type"] == "uefi"


def test_a_rebuild_keeps_what_was_asked_for_the_instance(cowshed: Call, driver: FakeDriver) -> None:
    driver.images.add("other", properties={"hw_disk_bus": "scsi", "hw_firmware_type": "bios"})
    assert cowshed("run", "debian", "--name", "web", "--tpm", "--firmware", "uefi", "--network", "none")[0] == 0
    for _ in range(2):  # also what a rebuild has written down
        code, _, err = cowshed("rebuild", "web", "other", "--yes")
        assert code == 0, err
        assert dict(driver.guest("web").image.properties) == {
            "hw_disk_bus": "scsi", "hw_firmware_type": "uefi", "hw_tpm_version": "2.0",
        }  # fmt: skip
    shown = json.loads(cowshed("show", "web", "-o", "json")[1])["instance"]
    assert shown["image"] == "other"
    assert shown["properties"] == {"hw_firmware_type": "uefi", "hw_tpm_version": "2.0"}
    assert "hw_tpm_version" in cowshed("show", "web")[1]


def test_events_name_the_image_of_a_rescue_and_a_rebuild(cowshed: Call, driver: FakeDriver) -> None:
    driver.images.add("other")
    assert cowshed("run", "debian", "--name", "web", "--network", "none")[0] == 0
    for line in (("rescue", "web", "--image", "other"), ("unrescue", "web"), ("rebuild", "web", "other", "--yes")):
        assert cowshed(*line)[0] == 0
    assert [(entry.event, entry.detail) for entry in Host.connect().events("web")] == [
        ("created", "from image debian"),
        ("rescued", "from image other"),
        ("unrescued", ""),
        ("rebuilt", "from image other"),
    ]
