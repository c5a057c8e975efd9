"""Moving disk content: read a chain of layers, write raw or qcow2, on all cores, in one pass."""

from cowshed.tools.transfer.convert import Copied, digest_of, fetch
from cowshed.tools.transfer.export import export, to_qcow2
from cowshed.tools.transfer.sinks import into_file

__all__ = ["Copied", "digest_of", "export", "fetch", "into_file", "to_qcow2"]
