"""The driver contract on the driver that is shipped for tests; tests/vm runs it on libvirt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cowshed.contract.compute import CAPABILITIES, ComputeDriver
from cowshed.testing import FakeDriver
from cowshed.testing.conformance import DriverConformance
from cowshed.testing.conformance.driver import ALWAYS_HOLLOW, MOVING, DriverSuite, SharePromises, promise
from cowshed.units import MiB


class TestFake(DriverConformance, SharePromises):
    may_be_hollow = ALWAYS_HOLLOW | MOVING

    @pytest.fixture(autouse=True)
    def made(self, request: pytest.FixtureRequest) -> Iterator[None]:
        fake = FakeDriver()
        fake.init_host("here")
        self.driver: ComputeDriver = fake
        self.image = fake.images.add("tiny", b"boot" * 256 + bytes(MiB))
        yield
        request.node.user_properties += [("hollow", f"fake: {call}") for _, call in getattr(self, "hollow", [])]
        self.clean()
        self.finish()
        assert not fake.guests
        assert not any(backend.table for backend in fake.backends.values())


def test_every_call_of_the_contract_is_promised() -> None:
    """Moving for real needs two hosts: tests/vm has them."""
    tests = [getattr(DriverConformance, name) for name in dir(DriverConformance) if name.startswith("test_")]
    promised = {call for test in tests for call in getattr(test, "promises", ())}
    calls = {name for capability in CAPABILITIES for name in vars(capability) if not name.startswith("_")}
    assert promised <= calls
    assert calls - promised <= MOVING


class Refusing(DriverSuite):
    def __init__(self, *known: str) -> None:
        self.may_be_hollow = known

    @promise("spawn", "destroy")
    def test_it(self) -> None:
        raise NotImplementedError("no")


def test_a_hollow_pass_is_counted_and_no_other_call_may_be_hollow() -> None:
    suite = Refusing("destroy")
    suite.test_it()
    assert suite.hollow == [("test_it", "destroy")]
    with pytest.raises(AssertionError, match="test_it is hollow: no"):
        Refusing().test_it()
