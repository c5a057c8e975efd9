"""Disk limits: QEMU's rules, told before QEMU is asked."""

from __future__ import annotations

import pytest

from cowshed.domain.qos import iotune
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
    ],
)
def test_contradictions(values: dict[str, object], sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        tune(**values)


def test_a_typing_error_is_helped() -> None:
    with pytest.raises(InvalidRequest) as caught:
        tune(read_iops_sek=1)
    assert caught.value.hint == "did you mean quota:disk_read_iops_sec?"
