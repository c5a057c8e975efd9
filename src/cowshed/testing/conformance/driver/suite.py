"""What the promises of a compute driver share: an image, instances, the lasting one, and the count of hollow passes."""

from __future__ import annotations

import functools
import io
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, Final, TypeVar

from cowshed.contract.compute import CAPABILITIES, ComputeDriver
from cowshed.contract.imaging import ImageService
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

CALLS: Final = frozenset(name for kind in CAPABILITIES for name in vars(kind) if not name.startswith("_"))

IMAGE: Final = "conform"
"""The name of the image that the suite makes for itself."""

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


def image_content() -> bytes:
    """A raw disk of 1 MiB that boots, and then waits without end: a sector that halts the processor again and again."""
    return b"\xf4\xeb\xfd".ljust(510, b"\0") + b"\x55\xaa" + bytes(MiB - 512)


@contextmanager
def keeping(driver: ComputeDriver) -> Iterator[dict[str, Instance]]:
    """For ``kept`` of all tests of one driver, which then share an instance; it is removed at the end of the block."""
    suite = DriverSuite()
    suite.driver, suite.kept = driver, {}
    try:
        yield suite.kept
    finally:
        suite.finish()


class DriverSuite:
    """Set before each test:

    * ``driver``: the driver, after ``init_host("here")``, with no instances but those in ``kept``.

    And where it helps:

    * ``image``: a bootable image that the driver's image service has. Without it one of :func:`image_content` is put into
      ``driver.images``; that suits wherever guests need not obey the power button;
    * ``kept``: what :func:`keeping` gives: the instance that most tests share stays running in it, and one boot does for all of them.
      Without it each test has a new one;
    * ``volume(name)``: makes the ``connection_info`` of a new volume of :attr:`volume_size`;
    * ``may_be_hollow``: calls that the driver is known not to have; a hollow pass of any other call fails, and says what to write.

    What a test has made is removed after it (:meth:`teardown_method` under pytest, :meth:`tearDown` under unittest). ``hollow``
    has the (test, call) pairs that have passed hollow.
    """

    driver: ComputeDriver
    memory = 128 * MiB
    volume_size = 16 * MiB
    volume: Callable[[str], Mapping[str, Any]] | None = None
    may_be_hollow: Collection[str] = ALWAYS_HOLLOW | MOVING
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
    _own: bool = False

    @functools.cached_property
    def image(self) -> Image:
        """:raises AssertionError: it must be set, as the driver has no ``images`` to put one into"""
        images = getattr(self.driver, "images", None)
        if isinstance(images, ImageService):
            found = list(images.list(name=IMAGE))
            return found[0] if found else images.upload(Image(id="", name=IMAGE), io.BytesIO(image_content()))
        kind = type(self.driver).__name__
        raise AssertionError(
            f"{kind} has no image service called images: set image to a bootable image that it can use"
        )

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
            self.kept, self._own = {}, True
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
        while getattr(self, "_made", None):
            self.driver.destroy(None, self._made.pop(), [])

    def finish(self) -> None:
        """Remove the lasting one too."""
        while getattr(self, "kept", None):
            self.driver.destroy(None, self.kept.popitem()[1], [])

    def teardown_method(self) -> None:
        """pytest calls it after each test, and after the fixtures: what they have cleaned already stays so."""
        self.clean()
        if self._own:
            self.finish()

    def tearDown(self) -> None:
        """The same, by unittest's name."""
        self.teardown_method()

    def count_hollow(self, test: str, calls: Collection[str], error: BaseException) -> None:
        """:raises AssertionError: the driver should have these calls"""
        raised = _raised_by(error.__traceback__)
        known = [call for call in dict.fromkeys([*calls, *raised]) if call in self.may_be_hollow]
        if not known:
            raise AssertionError(_how_to_allow(f"{test} is hollow: {error}", raised or calls)) from error
        self.hollow = [*getattr(self, "hollow", []), *((test, call) for call in known)]

    def count_missing(self, test: str, calls: Collection[str]) -> None:
        """:raises AssertionError: the driver should have some of these, all of which are named at once"""
        if unexpected := [call for call in calls if call not in self.may_be_hollow]:
            raise AssertionError(
                _how_to_allow(f"{type(self.driver).__name__} lacks {', '.join(unexpected)}", unexpected)
            )
        self.hollow = [*getattr(self, "hollow", []), *((test, call) for call in calls)]

    def start_of(self, instance: Instance) -> object:
        """Another one for each start of the guest; None where the driver does not tell."""
        return self.driver.get_info(instance).internal_id

    def goes_on(self, instance: Instance, start: object) -> None:
        """It runs, and has not been started since."""
        self._is(instance, PowerState.RUNNING)
        assert self.start_of(instance) == start, f"{instance.name} has been started again"

    def has_started(self, instance: Instance, start: object) -> None:
        """It runs, and has been started since."""
        self._is(instance, PowerState.RUNNING)
        assert start is None or self.start_of(instance) != start, f"{instance.name} has not been started again"

    def _is(self, instance: Instance, state: PowerState) -> None:
        found = self.driver.get_info(instance).state
        assert found == state, f"{instance.name} is {found.name}, not {state.name}"


def _raised_by(trace: TracebackType | None) -> list[str]:
    """The call of the contract that the error came from: [] where none is on the way."""
    while trace is not None:
        if (name := trace.tb_frame.f_code.co_name) in CALLS:
            return [name]
        trace = trace.tb_next
    return []


def _how_to_allow(sentence: str, calls: Collection[str]) -> str:
    names = ", ".join(f'"{call}"' for call in sorted(calls))
    return f"{sentence}\nWhere the driver is meant not to have it: may_be_hollow = DriverConformance.may_be_hollow | {{{names}}}"
