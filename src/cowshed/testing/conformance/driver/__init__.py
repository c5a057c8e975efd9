"""What every compute driver promises (contract/compute.py), as far as it fulfils it.

Each test is a promise and names the calls it is about. Where a driver only raises UnsupportedOperation the test passes hollow: that is
counted, and fails where it is not one of the calls that the driver is known not to have (``may_be_hollow``). docs/rooms/testing.md has a
complete example.
"""

from __future__ import annotations

from cowshed.testing.conformance.driver.devices import DevicePromises
from cowshed.testing.conformance.driver.events import EventPromises
from cowshed.testing.conformance.driver.host import HostPromises
from cowshed.testing.conformance.driver.images import ImagePromises
from cowshed.testing.conformance.driver.life import LifePromises
from cowshed.testing.conformance.driver.look import LookPromises
from cowshed.testing.conformance.driver.moving import MovingPromises
from cowshed.testing.conformance.driver.power import PowerPromises
from cowshed.testing.conformance.driver.shares import SharePromises
from cowshed.testing.conformance.driver.suite import (
    ALWAYS_HOLLOW,
    MOVING,
    DriverSuite,
    image_content,
    keeping,
    promise,
)

__all__ = [
    "ALWAYS_HOLLOW",
    "MOVING",
    "DriverConformance",
    "DriverSuite",
    "SharePromises",
    "image_content",
    "keeping",
    "promise",
]


class DriverConformance(
    LifePromises,
    PowerPromises,
    LookPromises,
    EventPromises,
    DevicePromises,
    ImagePromises,
    HostPromises,
    MovingPromises,
):
    """All promises; what to set before each test is said in :class:`DriverSuite`."""
