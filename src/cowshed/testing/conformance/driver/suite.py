"""What the promises of a compute driver share: instances, the lasting one, and the count of hollow passes."""

from __future__ import annotations

import functools
import uuid
from collections.abc import Callable, Collection, Mapping
from typing import Any, ClassVar, Final, TypeVar

from cowshed.contract.compute import ComputeDriver
from cowshed.contract.live_migration import LiveMigration
from cowshed.contract.resize import Resize
from cowshed.errors import Conflict, CowshedError, ImageRejected, InvalidRequest, NotFound, OperatorError
from cowshed.model.flavor import Flavor
from cowshed.model.image import Image
from cowshed.model.instance import Instance, PowerState
from cowshed.units import MiB

ALWAYS_HOLLOW: Final = frozenset({"get_rdp_console", "get_mks_console", "host_power_action"})
"""QEMU has no such consoles, and a host that is off runs no driver that could start it."""

MOVING: Final = frozenset(name for kind in (Resize, LiveMigration) for name in vars(kind) if not name.startswith("_"))
"""Calls that need a second host."""

Suite = TypeVar("Suite", bound="DriverSuite")
Test = Callable[[Suite], None]


def promise(*calls: str) -> Callable[[Test[Suite]], Test[Suite]]:
    """The test shows what is promised of ``calls``. Where a driver only says that it cannot, it passes, but hollow."""

    def decorate(test: Test[Suite]) -> Test[Suite]:
        @functools.wraps(test)
        def run(self: Suite) -> None:
            try:
                test(self)
            except NotImplementedError as error:
                self.count_hollow(test.__name__, calls, error)

        run.promises = calls  # type: ignore[attr-defined]
        return run

    return decorate


class DriverSuite:
    """Set before each test:

    * ``driver``: the driver, after ``init_host``, with no instances but those in ``kept``;
    * ``image``: a bootable image that the driver's image service has.

    And where it helps:

    * ``kept``: a dict that lives as long as the driver: the instance that most tests share stays running in it, and one boot does
      for all of them. Call :meth:`finish` at the end;
    * ``volume(name)``: makes the ``connection_info`` of a new volume of :attr:`volume_size`;
    * ``may_be_hollow``: calls that the driver is known not to have; a hollow pass of any other call fails.

    Call :meth:`clean` after each test; ``hollow`` has the (test, call) pairs that have passed hollow.
    """

    driver: ComputeDriver
    image: Image
    memory = 128 * MiB
    volume_size = 16 * MiB
    volume: Callable[[str], Mapping[str, Any]] | None = None
    may_be_hollow: Collection[str] = ALWAYS_HOLLOW
    refusals: ClassVar[tuple[type[BaseException], ...]] = (
        NotFound,
        Conflict,
        InvalidRequest,
        ImageRejected,
        OperatorError,
    )
    kept: dict[str, Instance]
    hollow: list[tuple[str, str]]
    _made: list[Instance]

    def instance(self, **fields: Any) -> Instance:
        """A new one, not spawned yet."""
        identity = str(uuid.uuid4())
        flavor = fields.pop("flavor", Flavor(vcpus=1, memory=self.memory))
        made = Instance(
            uuid=identity, name=f"conform-{identity[:8]}", flavor=flavor, image_ref=self.image.id, host="here", **fields
        )
        self._made = [*getattr(self, "_made", []), made]
        return made

    def spawned(self, **fields: Any) -> Instance:
        """One of the test's own, running."""
        instance = self.instance(**fields)
        self.driver.spawn(None, instance, self.image, [], None, network_info=[])
        return instance

    def lasting(self) -> Instance:
        """The shared one, running, whatever the test before has done to it."""
        if not hasattr(self, "kept"):
            self.kept = {}
        if (instance := self.kept.get("lasting")) and not self._wakes(instance):
            self.driver.destroy(None, self.kept.pop("lasting"), [])
        if "lasting" not in self.kept:
            instance = self.kept["lasting"] = self.spawned()
            self._made.remove(instance)
        return self.kept["lasting"]

    def _wakes(self, instance: Instance) -> bool:
        try:
            self.driver.set_bootable(instance, True)
            self.driver.restore(instance)
            if self.driver.get_info(instance).state == PowerState.PAUSED:
                self.driver.unpause(instance)
            return self.driver.get_info(instance).state == PowerState.RUNNING
        except (CowshedError, NotImplementedError):
            return False

    def unknown(self) -> Instance:
        """One that was never spawned."""
        return self.instance()

    def clean(self) -> None:
        """Remove what the test has made; the lasting one stays."""
        for instance in getattr(self, "_made", []):
            self.driver.destroy(None, instance, [])

    def finish(self) -> None:
        """Remove the lasting one too."""
        while getattr(self, "kept", None):
            self.driver.destroy(None, self.kept.popitem()[1], [])

    def count_hollow(self, test: str, calls: Collection[str], error: BaseException) -> None:
        """:raises AssertionError: the driver should have these calls"""
        known = [call for call in calls if call in self.may_be_hollow]
        if not known:
            raise AssertionError(f"{test} is hollow: {error}") from error
        self.hollow = [*getattr(self, "hollow", []), *((test, call) for call in known)]

    def _is(self, instance: Instance, state: PowerState) -> None:
        found = self.driver.get_info(instance).state
        assert found == state, f"{instance.name} is {found.name}, not {state.name}"
