"""ploop, natively: a directory with a data file and a ``DiskDescriptor.xml``.

Sources of the facts: QEMU's docs/interop/parallels and prl-xml (the formats), and what the tools of
the package ploop 1.15 write and accept. QEMU reads the data file alone: it knows neither the
descriptor nor chains of deltas.
"""

from cowshed.tools.ploop.descriptor import FILE, TOP, Delta, Descriptor, Kind, parse, render
from cowshed.tools.ploop.errors import PloopError
from cowshed.tools.ploop.folder import DATA, Folder, sweep
from cowshed.tools.ploop.grow import grow
from cowshed.tools.ploop.image import CLUSTER, Header, check, read_bat, read_header
from cowshed.tools.ploop.write import Mapped, clone_raw, create_blank, map_rest, new_header

__all__ = [
    "CLUSTER",
    "DATA",
    "FILE",
    "TOP",
    "Delta",
    "Descriptor",
    "Folder",
    "Header",
    "Kind",
    "Mapped",
    "PloopError",
    "check",
    "clone_raw",
    "create_blank",
    "grow",
    "map_rest",
    "new_header",
    "parse",
    "read_bat",
    "read_header",
    "render",
    "sweep",
]
