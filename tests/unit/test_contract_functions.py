"""The contract's module functions: block device info in every shape, and drivers found by their names."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from cowshed.contract import loading
from cowshed.contract.compute import (
    ComputeDriver,
    block_device_info_get_ephemerals,
    block_device_info_get_mapping,
    block_device_info_get_root,
    block_device_info_get_swap,
    driver_dict_from_config,
    get_block_device_info,
    is_xenapi,
    load_compute_driver,
    swap_is_usable,
)
from cowshed.driver import LibvirtDriver
from cowshed.errors import ConfigError
from cowshed.model.flavor import Flavor
from cowshed.model.instance import Instance
from cowshed.model.volume import BlockDeviceInfo, Ephemeral, Swap
from cowshed.testing import FakeDriver

SWAP = {"device_name": "/dev/vdb", "swap_size": 1, "disk_bus": None}
INFO = {
    "root_device_name": "/dev/vda",
    "swap": SWAP,
    "ephemerals": [{"size": 1}],
    "block_device_mapping": [{"mount_device": "/dev/vdc"}],
}
VALUE = BlockDeviceInfo("/dev/vda", Swap("/dev/vdb", 1), (Ephemeral(size=1),), ({"mount_device": "/dev/vdc"},))


@pytest.mark.parametrize("info", [INFO, VALUE], ids=["dictionary", "value"])
def test_block_device_info_is_read(info: Any) -> None:
    assert block_device_info_get_root(info) == "/dev/vda"
    assert block_device_info_get_swap(info) == SWAP
    assert len(block_device_info_get_ephemerals(info)) == 1
    assert block_device_info_get_mapping(info) == [{"mount_device": "/dev/vdc"}]


@pytest.mark.parametrize("info", [None, {}, BlockDeviceInfo(), dict.fromkeys(INFO)])
def test_nothing_is_an_answer_too(info: Any) -> None:
    assert block_device_info_get_root(info) is None
    assert block_device_info_get_swap(info) == {"device_name": None, "swap_size": 0}
    assert block_device_info_get_ephemerals(info) == []
    assert block_device_info_get_mapping(info) == []


@pytest.mark.parametrize("swap", [SWAP, Swap("/dev/vdb", 1)])
def test_swap_with_name_and_size_is_usable(swap: Any) -> None:
    assert swap_is_usable(swap)


@pytest.mark.parametrize(
    "swap", [None, {}, {**SWAP, "swap_size": 0}, {**SWAP, "device_name": None}, Swap(), {"swap_size": 1}]
)
def test_other_swap_is_not(swap: Any) -> None:
    assert not swap_is_usable(swap)
    assert not swap_is_usable(block_device_info_get_swap({"swap": None}))


def test_the_answer_of_one_is_not_the_next_ones() -> None:
    block_device_info_get_swap(None)["swap_size"] = 7
    assert block_device_info_get_swap(None)["swap_size"] == 0


def test_block_devices_are_sorted_into_kinds() -> None:
    instance = Instance(uuid="u", name="web", flavor=Flavor(), root_device_name="/dev/vda")
    image = {"source_type": "image", "destination_type": "local"}
    swap = {"source_type": "blank", "destination_type": "local", "guest_format": "swap"}
    ephemeral = {"source_type": "blank", "destination_type": "local", "guest_format": "ext4"}
    volumes = [{"source_type": kind, "destination_type": "volume"} for kind in ("volume", "image", "snapshot", "blank")]
    found = get_block_device_info(instance, [image, swap, ephemeral, *volumes])
    assert found == {
        "root_device_name": "/dev/vda",
        "swap": swap,
        "ephemerals": [ephemeral],
        "block_device_mapping": volumes,
    }
    assert get_block_device_info(instance, [])["swap"] is None


# --- drivers by name ------------------------------------------------------------------------------


def test_the_usual_driver_is_libvirts() -> None:
    virtapi = object()
    driver = load_compute_driver(virtapi)
    assert type(driver) is LibvirtDriver
    assert driver.virtapi is virtapi


def test_a_driver_is_found_by_its_dotted_name() -> None:
    assert type(load_compute_driver(None, "cowshed.testing.FakeDriver")) is FakeDriver


def test_a_driver_is_found_by_its_entry_point(monkeypatch: pytest.MonkeyPatch) -> None:
    entries = [EntryPoint("mine", "cowshed.testing:FakeDriver", loading.GROUP)]
    monkeypatch.setattr(loading, "entry_points", lambda group: entries if group == "cowshed.drivers" else [])
    assert type(load_compute_driver(None, "mine")) is FakeDriver


@pytest.mark.parametrize(
    "name",
    [
        *("nowhere", "no.such.module.Driver", "cowshed.driver.NoSuchDriver", ".", "cowshed.", ".Driver"),
        *("os.path.join", "cowshed.driver", "builtins.dict", "cowshed.model.flavor.Flavor"),
    ],
)
def test_what_is_no_driver_is_one_clear_error(name: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_compute_driver(None, name)
    assert name in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.fixture
def broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    (tmp_path / "broken_driver.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield "broken_driver.Driver"
    sys.modules.pop("broken_driver", None)


def test_the_library_that_a_driver_lacks_is_named(broken: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="no_such_library"):
        load_compute_driver(None, broken)
    entries = [EntryPoint("mine", broken.replace(".", ":"), loading.GROUP)]
    monkeypatch.setattr(loading, "entry_points", lambda group: entries)
    with pytest.raises(ConfigError, match="no_such_library"):
        load_compute_driver(None, "mine")


def test_a_dictionary_of_drivers() -> None:
    made = driver_dict_from_config(["a=builtins.dict", "b=collections.OrderedDict"], one=1)
    assert {name: dict(value) for name, value in made.items()} == {"a": {"one": 1}, "b": {"one": 1}}
    assert driver_dict_from_config([]) == {}
    with pytest.raises(ConfigError):
        driver_dict_from_config(["nothing"])


def test_nobody_runs_xen() -> None:
    assert not is_xenapi()
    assert issubclass(LibvirtDriver, ComputeDriver)
