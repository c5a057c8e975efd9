"""What cowshed's contracts promise, as test classes that anybody can run on their own implementation.

Inherit from a suite and set what it asks for before each test; the tests are methods called
``test_...``, with no arguments and plain ``assert``, so pytest finds them and unittest can run them::

    class TestMyBackend(BackendConformance):
        @pytest.fixture(autouse=True)
        def made(self, tmp_path):
            self.place = tmp_path
            self.backend = MyBackend(...)
"""

from __future__ import annotations

from cowshed.testing.conformance.driver import DriverConformance
from cowshed.testing.conformance.imaging import ImageServiceConformance
from cowshed.testing.conformance.storage import BackendConformance, EncryptionConformance

__all__ = ["BackendConformance", "DriverConformance", "EncryptionConformance", "ImageServiceConformance"]
