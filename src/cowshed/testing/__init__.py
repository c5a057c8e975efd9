"""For tests: fakes that fulfil cowshed's contracts, and the suites that show whether something does.

* ``FakeDriver``: a compute driver whose guests are entries of a table. ``fake_host`` puts a ``Host`` on it.
* ``MemoryBackend`` and ``MemoryImages``: disks and images that cost no disk space. ``MemoryCluster``
  is storage that keeps bases, clones images of its own and takes snapshots.
* ``MemoryKeys``: the keys of encrypted disks, where a test can look at them.
* ``FakeClock``: time that a test turns by hand.
* ``cowshed.testing.conformance``: what a backend, an image service or a driver promises, as test
  classes to inherit from.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cowshed.testing.clock import FakeClock as FakeClock
    from cowshed.testing.cluster import MemoryCluster as MemoryCluster
    from cowshed.testing.disks import MemoryBackend as MemoryBackend
    from cowshed.testing.driver import FakeDriver as FakeDriver
    from cowshed.testing.driver import fake_host as fake_host
    from cowshed.testing.images import MemoryImages as MemoryImages
    from cowshed.testing.keys import MemoryKeys as MemoryKeys

_PUBLIC = {
    "FakeClock": "cowshed.testing.clock",
    "FakeDriver": "cowshed.testing.driver",
    "MemoryBackend": "cowshed.testing.disks",
    "MemoryCluster": "cowshed.testing.cluster",
    "MemoryImages": "cowshed.testing.images",
    "MemoryKeys": "cowshed.testing.keys",
    "fake_host": "cowshed.testing.driver",
}

__all__ = ["FakeClock", "FakeDriver", "MemoryBackend", "MemoryCluster", "MemoryImages", "MemoryKeys", "fake_host"]


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
