"""Moving disk content: read a chain of layers, write raw or qcow2, on all cores, in one pass."""

from cowshed.tools.transfer.compare import digest_of_source
from cowshed.tools.transfer.convert import Copied, digest_of, fetch
from cowshed.tools.transfer.export import check_export, export, export_layer, open_layer, to_ploop, to_qcow2, to_raw
from cowshed.tools.transfer.sinks import into_file

__all__ = [
    "Copied",
    "check_export",
    "digest_of",
    "digest_of_source",
    "export",
    "export_layer",
    "fetch",
    "into_file",
    "open_layer",
    "to_ploop",
    "to_qcow2",
    "to_raw",
]
