"""Volumes through the real os-brick: one that it can connect on this machine, and what it says of those it cannot."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from cowshed.errors import InvalidRequest, NotFound, OperatorError, UnsupportedOperation
from cowshed.model.disk import DiskFormat, DiskType
from cowshed.volumes import host, os_brick
from cowshed.volumes import info as infos
from cowshed.volumes.os_brick import OsBrick
from tests import volume_servers as servers

pytestmark = pytest.mark.filterwarnings("ignore")  # of os-brick's own libraries


def info(kind: str, **data: Any) -> dict[str, Any]:
    return {"driver_volume_type": kind, "serial": "v", "data": data}


def test_what_it_connects_is_opened_and_let_go(tmp_path: Path) -> None:
    file = servers.raw_file(tmp_path / "volume")
    brick, what = OsBrick("gpfs", state=tmp_path / "state"), info("gpfs", name="v", device_path=str(file))
    brick.check(what)
    source = brick.connect(what)
    assert (source.type, source.format, source.path) == (DiskType.FILE, DiskFormat.RAW, file)
    assert what["data"]["device_info"]["path"] == str(file)
    assert infos.without_passwords(what)["data"]["device_info"] == what["data"]["device_info"]
    assert brick.connect(what) == source
    assert brick.size(what) == servers.SIZE
    os.truncate(file, 2 * servers.SIZE)
    assert brick.size(what) == 2 * servers.SIZE
    brick.disconnect(what)
    brick.disconnect(what)
    assert file.exists()


@pytest.mark.parametrize(
    ("kind", "data", "error"),
    [
        ("fibre_channel", {"target_wwn": ["5006016939a01234"], "target_lun": 1}, OperatorError),
        ("nfs", {"export": "127.0.0.1:/none", "name": "v", "format": "raw"}, (OperatorError, NotFound)),
        ("scaleio", {}, OperatorError),
        ("storpool", {}, OperatorError),
    ],
)
def test_what_it_cannot_connect_is_one_sentence(tmp_path: Path, kind: str, data: dict[str, Any], error: Any) -> None:
    with pytest.raises(error) as caught:
        OsBrick(kind, state=tmp_path).connect(info(kind, **data))
    assert kind in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_share_says_what_its_file_holds(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest):
        OsBrick("nfs", state=tmp_path).check(info("nfs", export="h:/x", name="v"))


def test_one_that_is_broken_is_told_and_stops_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(locks: Path | None = None) -> Any:
        raise UnsupportedOperation(subject="this host", operation="connect", reason="os-brick cannot be loaded: x")

    monkeypatch.setattr(os_brick, "module", broken)
    with pytest.raises(UnsupportedOperation):
        OsBrick("nvmeof", state=tmp_path).check(info("nvmeof"))
    assert host.connector("192.0.2.1", "iqn.x", "here")["initiator"] == "iqn.x"


def test_what_a_volume_service_must_know() -> None:
    found = host.connector("192.0.2.1", "iqn.2025-01.x:y", "here")
    assert (found["ip"], found["initiator"], found["host"]) == ("192.0.2.1", "iqn.2025-01.x:y", "here")
    assert found["platform"] == os.uname().machine


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: os-brick starts a process with root's rights to look around")
def test_it_adds_to_that() -> None:
    assert "nvme_native_multipath" in host.connector("192.0.2.1", "iqn.x", "here")  # os-brick's own word
