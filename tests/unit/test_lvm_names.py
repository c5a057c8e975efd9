"""Names of volumes and tags, there and back."""

from __future__ import annotations

import pytest

from cowshed.errors import InvalidRequest
from cowshed.tools import lvm
from cowshed.tools.lvm import names

INSTANCE = "5d6a1c2e-7b3f-4e8a-9c0d-1e2f3a4b5c6d"  # the same in every worker: it is in the names of tests


@pytest.mark.parametrize("disk", ["disk", "disk.eph0", "disk_a", "a__b", "_", "x_", "rescue-1"])
@pytest.mark.parametrize("snapshot", [None, "before", "a_b", "_", "x__"])
def test_a_name_says_whose_disk_and_which_snapshot_it_is(disk: str, snapshot: str | None) -> None:
    name = lvm.disk_volume("vg", INSTANCE, disk)
    if snapshot:
        name = lvm.snapshot_volume("vg", name, snapshot)
    assert lvm.parse(name) == (INSTANCE, disk, snapshot)


def test_an_underscore_of_a_disk_is_never_taken_for_a_separator() -> None:
    disk, snapshot = lvm.disk_volume("vg", INSTANCE, "a_b"), lvm.disk_volume("vg", INSTANCE, "a")
    assert disk == f"{INSTANCE}_a__b"
    assert disk != lvm.snapshot_volume("vg", snapshot, "b")


@pytest.mark.parametrize("name", ["pool", "lvol0", f"{INSTANCE}", f"{INSTANCE}_", f"x{INSTANCE}_disk", "cowshed-new-1"])
def test_other_names_are_not_ours(name: str) -> None:
    assert lvm.parse(name) is None


def test_device_mapper_writes_hyphens_twice() -> None:
    assert str(lvm.node("cow-shed", "a-b_c")) == "/dev/mapper/cow--shed-a--b_c"


def test_names_that_lvm_keeps_for_itself_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="_tdata"):
        lvm.disk_volume("vg", INSTANCE, "tdata")
    with pytest.raises(InvalidRequest, match="_mlog"):
        lvm.snapshot_volume("vg", lvm.disk_volume("vg", INSTANCE, "disk"), "mlog")


def test_a_name_that_device_mapper_cannot_hold_is_refused() -> None:
    room = 126 - len("-dmcrypt") - len("vg-") - len(INSTANCE.replace("-", "--") + "_")
    lvm.disk_volume("vg", INSTANCE, "d" * room)
    with pytest.raises(InvalidRequest, match="too long"):
        lvm.disk_volume("vg", INSTANCE, "d" * (room + 1))


@pytest.mark.parametrize("text", ["", "plain-1.2_x", "sha256:ab", "a=b,c d", "+41", "größe\n"])
def test_any_text_fits_into_a_tag(text: str) -> None:
    assert set(names.escaped(text)) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+_.-")
    assert names.unescaped(names.escaped(text)) == text
