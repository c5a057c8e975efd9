"""What an image or flavor may ask for that is not made here: refused, because ignoring it would break a promise.

An instance whose memory was to be encrypted, or whose CPUs were to be its own, must not start
without. Words that only tune or describe are not here and are ignored.
"""

from __future__ import annotations

from typing import Final

from cowshed.domain.properties import Properties
from cowshed.errors import UnsupportedOperation

# The property, the values that ask for nothing, and what others ask for.
_TABLE: Final[tuple[tuple[str, tuple[str, ...], str], ...]] = (
    ("hw_mem_encryption", ("false", "no", "0"), "encrypt the memory of a guest"),
    ("hw_cpu_policy", ("shared",), "give a guest processors of its own"),
    ("hw_cpu_realtime", ("false", "no", "0"), "run a guest in real time"),
    ("hw_numa_nodes", ("1",), "arrange a guest in NUMA nodes"),
    ("hw_mem_page_size", ("any", "small", "4", "4KiB"), "give a guest huge pages"),
    ("hw_locked_memory", ("false", "no", "0"), "lock the memory of a guest"),
    ("hw_viommu_model", ("auto",), "give a guest an IOMMU"),
    ("hw_pmem", (), "give a guest persistent memory"),
    ("pci_passthrough:alias", (), "give a guest a PCI device of the host"),
)


def refuse(properties: Properties) -> None:
    """:raises UnsupportedOperation: something of the table is asked for"""
    for name, harmless, what in _TABLE:
        asked = properties.text(name)
        if asked and asked.lower() not in tuple(word.lower() for word in harmless):
            raise UnsupportedOperation(
                subject="cowshed", operation=what, reason=f"{name}={asked} asks for what is not made here yet"
            )
