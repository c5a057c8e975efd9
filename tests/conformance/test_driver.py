"""The driver contract on the driver that is shipped for tests; tests/vm runs it on libvirt."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cowshed.contract.compute import ComputeDriver
from cowshed.testing import FakeDriver
from cowshed.testing.conformance import DriverConformance
from cowshed.units import MiB


class TestFake(DriverConformance):
    @pytest.fixture(autouse=True)
    def made(self) -> Iterator[None]:
        fake = FakeDriver()
        fake.init_host("here")
        self.driver: ComputeDriver = fake
        self.image = fake.images.add("tiny", b"boot" * 256 + bytes(MiB))
        yield
        self.clean()
        assert not fake.guests
        assert not any(backend.table for backend in fake.backends.values())
