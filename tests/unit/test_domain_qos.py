"""Disk limits: QEMU's rules, told before QEMU is asked."""

from __future__ import annotations

import pytest

from cowshed.domain.qos import by_disk, changed, check_groups, iotune
from cowshed.errors import InvalidRequest
from cowshed.model.disk import IoTune


def tune(**values: object) -> IoTune | None:
    return iotune({f"quota:disk_{name}": str(value) for name, value in values.items()})


def test_no_limits() -> None:
    assert iotune({"hw:cpu_policy": "shared", "quota:cpu_shares": "10"}) is None
    assert tune(read_iops_sec=0) is None


def test_all_kinds_of_limits() -> None:
    assert tune(total_bytes_sec=100, read_iops_sec=5, write_iops_sec=6) == IoTune(
        total_bytes_sec=100, read_iops_sec=5, write_iops_sec=6
    )
    assert tune(total_iops_sec=100, total_iops_sec_max=200, total_iops_sec_max_length=10, size_iops_sec=4096) == IoTune(
        total_iops_sec=100, total_iops_sec_max=200, total_iops_sec_max_length=10, size_iops_sec=4096
    )


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"total_bytes_sec": 1, "read_bytes_sec": 1}, "read_bytes_sec contradicts it"),
        ({"total_iops_sec": 1, "write_iops_sec": 1}, "write_iops_sec contradicts it"),
        ({"read_bytes_sec_max": 5}, "read_bytes_sec_max needs read_bytes_sec"),
        ({"read_bytes_sec": 5, "read_bytes_sec_max_length": 5}, "needs read_bytes_sec_max"),
        ({"read_bytes_sec": 5, "read_bytes_sec_max": 4}, "is lower than"),
        ({"size_iops_sec": 5}, "size_iops_sec needs"),
        ({"size_iops_sec": 5, "read_bytes_sec": 5}, "size_iops_sec needs"),
        ({"read_iops_sec": "many"}, "is not a whole number"),
        ({"read_iops_sec": -1}, "is not between"),
        ({"read_iops_sec": 10**16}, "is not between"),
        ({"read_iops_sek": 1}, "unknown limit quota:disk_read_iops_sek"),
        ({"write_iops_sec": 5, "write_iops_sec_max": 10**12, "write_iops_sec_max_length": 1001}, "is too long"),
        ({"total_bytes_sec": 9, "total_bytes_sec_max": 9, "read_bytes_sec_max": 9}, "read_bytes_sec_max contradicts"),
        ({"group_name": "alone"}, "no limit is given"),
        ({"group_name": "-x", "total_iops_sec": 5}, "cannot name a group"),
        ({"total_iops_sec@": 5}, "unknown limit quota:disk_total_iops_sec@"),
        ({"total_iops_sec@swap": "x"}, "quota:disk_total_iops_sec@swap: 'x' is not a whole number"),
    ],
)
def test_contradictions(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        tune(**values)


def test_a_typing_error_is_helped() -> None:
    with pytest.raises(InvalidRequest) as caught:
        tune(read_iops_sek=1)
    assert caught.value.hint == "did you mean quota:disk_read_iops_sec?"


def test_a_disk_with_limits_of_its_own_has_only_those() -> None:
    specs = {
        "quota:disk_total_iops_sec": "100",
        "quota:disk_read_iops_sec@swap": "5",
        "quota:disk_total_bytes_sec@eph0": "0",
    }
    assert by_disk(specs) == {"": IoTune(total_iops_sec=100), "swap": IoTune(read_iops_sec=5), "eph0": None}
    assert iotune(specs) == IoTune(total_iops_sec=100)


def test_changes_are_checked_together_with_what_there_is() -> None:
    present = IoTune(total_iops_sec=100, total_iops_sec_max=200)
    assert changed(present, {"total_iops_sec": 150}) == IoTune(total_iops_sec=150, total_iops_sec_max=200)
    assert changed(present, {"total_iops_sec": 0, "total_iops_sec_max": 0, "read_bytes_sec": 1}) == IoTune(
        read_bytes_sec=1
    )
    assert changed(present, {"total_iops_sec": 0, "total_iops_sec_max": 0}) is None
    assert changed(None, {}) is None
    with pytest.raises(InvalidRequest, match="total_iops_sec_max needs total_iops_sec"):
        changed(present, {"total_iops_sec": 0})
    with pytest.raises(InvalidRequest, match="unknown limit total_iops"):
        changed(None, {"total_iops": 5})


def test_disks_of_a_group_have_the_same_limits() -> None:
    one, other = IoTune(total_iops_sec=5, group_name="g"), IoTune(total_iops_sec=6, group_name="g")
    check_groups([("vda", one), ("vdb", one), ("vdc", None), ("vdd", IoTune(total_iops_sec=9))])
    with pytest.raises(InvalidRequest, match="vda and vdb are in the group g, but their limits differ"):
        check_groups([("vda", one), ("vdb", other)])
