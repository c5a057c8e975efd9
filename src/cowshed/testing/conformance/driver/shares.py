"""Promises of a driver that shares directories with its guests (contract/shares.py): put it beside DriverConformance.

::

    class TestMine(DriverConformance, SharePromises): ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from cowshed.contract.shares import Shares
from cowshed.errors import InstanceNotFound, InvalidRequest, NameTaken, NotFound
from cowshed.model.instance import PowerState
from cowshed.model.share import Share
from cowshed.testing.conformance.driver.suite import DriverSuite, promise
from cowshed.testing.conformance.expect import refuses

DIRECTORY: Final = Share("conform", "conform", "/usr/share")
OTHER: Final = Share("conform-2", "other", "/usr/lib")


class SharePromises(DriverSuite):
    def _sharing(self) -> Shares:
        assert isinstance(self.driver, Shares), "it does not say that it shares directories"
        return self.driver

    @promise("power_on", "power_off")
    def test_shares_come_with_a_start_and_go_when_it_is_off(self) -> None:
        driver, instance = self._sharing(), self.lasting()
        self.driver.power_off(instance)
        for _ in range(2):
            driver.mount_share(None, instance, DIRECTORY)
            assert driver.is_share_mounted(None, instance, DIRECTORY)
        assert not driver.is_share_mounted(None, instance, OTHER)
        self.driver.power_on(None, instance, [])
        self._is(instance, PowerState.RUNNING)
        with refuses(*self.refusals):
            driver.umount_share(None, instance, DIRECTORY)
        self.driver.power_off(instance)
        for _ in range(2):
            assert driver.umount_share(None, instance, DIRECTORY)
            assert not driver.is_share_mounted(None, instance, DIRECTORY)
        self.driver.power_on(None, instance, [])
        self._is(instance, PowerState.RUNNING)

    @promise("power_off")
    def test_shares_that_cannot_be_change_nothing(self) -> None:
        driver, instance = self._sharing(), self.lasting()
        self.driver.power_off(instance)
        driver.give_shares(None, instance, [OTHER])
        wrong: list[tuple[Share, type[Exception]]] = [
            (replace(DIRECTORY, source="/nonexistent"), NotFound),
            (replace(DIRECTORY, source="usr"), InvalidRequest),
            (replace(DIRECTORY, tag="x" * 37), InvalidRequest),
            (replace(DIRECTORY, tag=OTHER.tag), NameTaken),
        ]
        for share, kind in wrong:
            calls: list[Callable[[], object]] = [
                lambda share=share: driver.mount_share(None, instance, share),  # type: ignore[misc]
                lambda share=share: driver.give_shares(None, instance, [OTHER, share]),  # type: ignore[misc]
            ]
            for call in calls:
                with refuses(kind):
                    call()
            assert not driver.is_share_mounted(None, instance, share)
        assert driver.is_share_mounted(None, instance, OTHER)
        driver.give_shares(None, instance, [])
        assert not driver.is_share_mounted(None, instance, OTHER)

    @promise("power_on")
    def test_shares_of_nobody(self) -> None:
        driver, instance = self._sharing(), self.unknown()
        with refuses(InstanceNotFound):
            driver.mount_share(None, instance, DIRECTORY)
        assert not driver.is_share_mounted(None, instance, DIRECTORY)
        assert driver.umount_share(None, instance, DIRECTORY)
