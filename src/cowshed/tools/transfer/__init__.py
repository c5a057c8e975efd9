"""Moving disk content: read a chain of layers, write raw or qcow2, on all cores, in one pass."""

from cowshed.tools.transfer.convert import Copied, fetch
from cowshed.tools.transfer.export import export

__all__ = ["Copied", "export", "fetch"]
