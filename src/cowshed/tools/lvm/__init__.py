"""LVM: its commands as functions, its reports as values, its failures as our errors.

Every command goes through ``tools.privilege``, whose table knows these words and no others.
"""

from cowshed.tools.lvm.names import disk_volume, node, parse, snapshot_volume
from cowshed.tools.lvm.report import Group, Volume, group, pool_free, pool_usage, tag_of, tags, volume, volumes
from cowshed.tools.lvm.verbs import (
    activate,
    check_pool,
    create_sparse,
    create_thick,
    create_thin,
    deactivate,
    extend,
    merge,
    read_only,
    remove,
    rename,
    retag,
    set_size,
    snapshot,
    split,
    thin_pool,
    thin_snapshot,
)

__all__ = [
    "Group",
    "Volume",
    "activate",
    "check_pool",
    "create_sparse",
    "create_thick",
    "create_thin",
    "deactivate",
    "disk_volume",
    "extend",
    "group",
    "merge",
    "node",
    "parse",
    "pool_free",
    "pool_usage",
    "read_only",
    "remove",
    "rename",
    "retag",
    "set_size",
    "snapshot",
    "snapshot_volume",
    "split",
    "tag_of",
    "tags",
    "thin_pool",
    "thin_snapshot",
    "volume",
    "volumes",
]
