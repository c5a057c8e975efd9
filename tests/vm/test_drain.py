"""A host in maintenance: its guest goes to the other one, for real."""

from __future__ import annotations

import pytest

from cowshed.contract.callbacks import Placed
from cowshed.errors import HostUnsuitable
from cowshed.model.image import Image
from tests.vm.sides import Side, at_source, booted, goes_on, nothing_at, one_guest
from tests.vm.test_live_migration import apart, image  # noqa: F401 - fixtures

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("migration")]


def test_a_drained_host_is_left_by_its_guest(apart: tuple[Side, Side], image: Image) -> None:  # noqa: F811
    source, target = apart
    driver = source.driver
    (node,) = driver.get_available_nodes()
    instance = booted(source, image, backend="qcow2")
    try:
        driver.placement = lambda _: Placed(target.host.address, target.driver)
        target.driver.set_host_enabled(False)
        with pytest.raises(HostUnsuitable, match="disabled"):
            driver.host_maintenance_mode(node, True)
        assert driver.host_disabled() == []
        at_source(source, target, instance)
        target.driver.set_host_enabled(True)

        assert driver.host_maintenance_mode(node, True) == "on_maintenance"
        assert one_guest(instance, source, target) == [target]
        goes_on(target, instance)
        nothing_at(source, instance)
        assert driver.host_maintenance_mode(node, True) == "on_maintenance"
        assert driver.host_maintenance_mode(node, False) == "off_maintenance"
    finally:
        driver.placement = None
        target.driver.set_host_enabled(True)
        target.driver.destroy(None, instance, [])
        driver.destroy(None, instance, [])
