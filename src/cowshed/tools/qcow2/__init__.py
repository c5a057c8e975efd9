"""qcow2, natively: the header and the mapping are read, overlays are written, without a process.

Source of every fact: QEMU's docs/interop/qcow2.txt (versions 2 and 3).
"""

from cowshed.tools.qcow2.header import Header, QcowError, read_header
from cowshed.tools.qcow2.mapping import Extent, Kind, data_bytes, mapping
from cowshed.tools.qcow2.overlay import create_blank, create_overlay
from cowshed.tools.qcow2.snapshots import Snapshot, read_snapshots

__all__ = [
    "Extent",
    "Header",
    "Kind",
    "QcowError",
    "Snapshot",
    "create_blank",
    "create_overlay",
    "data_bytes",
    "mapping",
    "read_header",
    "read_snapshots",
]
