"""Disks: the backends, each in its own file with the same shape."""

from __future__ import annotations

from pathlib import Path

from cowshed.config import DisksSection, LvmSection, RbdSection
from cowshed.contract.storage import Backend, KeySource
from cowshed.disks.ploop import PloopBackend
from cowshed.disks.qcow2 import Qcow2Backend
from cowshed.disks.raw import RawBackend

# Backends that need nothing but the instances' directories.
BACKENDS: dict[str, type[RawBackend | Qcow2Backend | PloopBackend]] = {
    "raw": RawBackend,
    "qcow2": Qcow2Backend,
    "ploop": PloopBackend,
}


def open_backends(
    instances: Path,
    section: DisksSection,
    *,
    lvm: LvmSection | None = None,
    rbd: RbdSection | None = None,
    keys: KeySource | None = None,
) -> dict[str, Backend]:
    """Every backend that is configured on this host. No I/O; bindings are loaded when a disk needs them.

    Disks that are files lie in ``<instances>/<uuid>/``; the manifests of all lie there.

    :param keys: where the keys of encrypted disks are; None: nothing can be encrypted
    """
    backends: dict[str, Backend] = {name: kind(instances, section, keys) for name, kind in BACKENDS.items()}
    if rbd and rbd.pool:
        from cowshed.disks.rbd import RbdBackend

        backends["rbd"] = RbdBackend(instances, rbd, keys, iterations=section.luks_iterations)
    if lvm and lvm.volume_group:
        from cowshed.disks.lvm import open_backend

        backends["lvm"] = open_backend(instances, lvm, keys)
    return backends
