"""A compute driver in memory: for tests of what stands above a driver.

::

    driver = FakeDriver()
    driver.images.add("debian", b"...")
    driver.fail("spawn", NoSpace(place="/", needed=1, free=0))
    driver.guest("web").state, driver.called("reboot")

What the contract promises of states, errors and repetition holds, and the conformance suite of
drivers shows it. Guests boot at once and print a login prompt; their disks have the image's content.
Moving between hosts and packet filters are not faked: those calls raise UnsupportedOperation.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from cowshed.testing.driver.guest import FakeGuest
from cowshed.testing.driver.host import FakeHost
from cowshed.testing.driver.inside import FakeInside
from cowshed.testing.driver.migrations import FakeMigrations
from cowshed.testing.driver.rescue import FakeRescue
from cowshed.testing.driver.snapshot import FakeSnapshot
from cowshed.testing.driver.table import Call, recording

if TYPE_CHECKING:
    from cowshed.config import Config
    from cowshed.manager import Host

__all__ = ["Call", "FakeDriver", "FakeGuest", "fake_host"]


@recording
class FakeDriver(FakeHost, FakeSnapshot, FakeRescue, FakeInside, FakeMigrations):
    """Has ``guests``, ``images``, ``backends`` and ``calls`` to look at, ``fail`` and ``crash`` to make trouble.

    :param virtapi: as for every driver; never called
    :param config: for the defaults it names; None: those of the code, no file is read
    """


def fake_host(state: Path, driver: FakeDriver | None = None, *, config: Config | None = None) -> Host:
    """A ``Host`` on a fake driver, with its records in the directory ``state``.

    ::

        with fake_host(tmp_path) as host:
            host.driver.images.add("debian")
            vm = host.run("debian", name="web")
    """
    from cowshed.config import Config
    from cowshed.manager import Host

    config = config or Config()
    config = dataclasses.replace(config, host=dataclasses.replace(config.host, state=str(state)))
    return Host(config, cast(Any, driver or FakeDriver(config=config)))
