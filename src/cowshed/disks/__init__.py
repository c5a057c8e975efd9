"""Disks: the backends, each in its own file with the same shape."""

from __future__ import annotations

from pathlib import Path

from cowshed.config import DisksSection
from cowshed.contract.storage import Backend
from cowshed.disks.qcow2 import Qcow2Backend
from cowshed.disks.raw import RawBackend

BACKENDS: dict[str, type[RawBackend | Qcow2Backend]] = {"raw": RawBackend, "qcow2": Qcow2Backend}


def open_backends(instances: Path, section: DisksSection) -> dict[str, Backend]:
    """Every backend of this host; disks lie in ``<instances>/<uuid>/``."""
    return {name: kind(instances, section) for name, kind in BACKENDS.items()}
