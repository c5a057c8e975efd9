"""cowshed: virtual machines on copy-on-write disks, without the cloud around them.

The names below are the public library. Each is imported when it is first used, so that
``import cowshed`` costs milliseconds: the libvirt binding, for one, is loaded by the first
connection and not before.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cowshed.contract.compute import ComputeDriver as ComputeDriver
    from cowshed.contract.loading import load_compute_driver as load_compute_driver
    from cowshed.driver import LibvirtDriver as LibvirtDriver
    from cowshed.errors import CowshedError as CowshedError
    from cowshed.manager import Host as Host

__version__ = "0.1.0"

_PUBLIC = {
    "ComputeDriver": "cowshed.contract.compute",
    "CowshedError": "cowshed.errors",
    "Host": "cowshed.manager",
    "LibvirtDriver": "cowshed.driver",
    "load_compute_driver": "cowshed.contract.loading",
}

__all__ = ["ComputeDriver", "CowshedError", "Host", "LibvirtDriver", "__version__", "load_compute_driver"]


def __dir__() -> list[str]:
    """Also what nobody has used yet, for those who look what there is."""
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(_PUBLIC[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
