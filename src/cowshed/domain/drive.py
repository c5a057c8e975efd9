"""How QEMU drives a disk: cache mode, I/O mode, discard, detect-zeroes, I/O threads.

The flavor's extra specs (``hw:disk_cache``) go before the image's properties (``hw_disk_cache``),
those before the host's configuration. ``hw:disk_cache@swap`` is for one disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from cowshed.config import DisksSection
from cowshed.domain.properties import Properties
from cowshed.domain.qos import AT
from cowshed.errors import InvalidRequest
from cowshed.model.disk import Bus, CacheMode

IO: Final = ("native", "threads", "io_uring")
DISCARD: Final = ("ignore", "unmap")
DETECT_ZEROES: Final = ("off", "on", "unmap")
UNCACHED: Final = (CacheMode.NONE, CacheMode.DIRECTSYNC)
THREADED: Final = (Bus.VIRTIO, Bus.SCSI)
MOST_THREADS: Final = 64
PREFIXES: Final = ("hw:disk_", "hw_disk_")


@dataclass(frozen=True, slots=True)
class DriveOptions:
    """None: QEMU's default."""

    cache: CacheMode = CacheMode.DEFAULT
    io: str | None = None
    discard: str | None = None
    detect_zeroes: str | None = None


def options(properties: Properties, section: DisksSection, names: Sequence[str] = ()) -> DriveOptions:
    """Of the disk with these names, the first that is said wins.

    What was asked for must be possible; what is only configured gives way.

    :raises InvalidRequest: an unknown word, or two that contradict each other
    """
    asked = _Asked(properties, names)
    cache = CacheMode(asked.word("hw_disk_cache", tuple(CacheMode)) or section.cache)
    io = asked.word("hw_disk_io", IO)
    if io == "native" and cache not in UNCACHED:
        raise InvalidRequest(
            reason=f"native I/O works past the page cache only, and the cache mode is {cache}",
            hint="add hw_disk_cache=none (or directsync), or use io_uring",
        )
    discard = asked.word("hw_disk_discard", DISCARD) or section.discard
    zeroes = asked.word("hw_disk_detect_zeroes", DETECT_ZEROES)
    if zeroes == "unmap" and discard != "unmap":
        raise InvalidRequest(
            reason=f"detect_zeroes=unmap gives zeros back to the storage, and discard is {discard}",
            hint="add hw_disk_discard=unmap, or use detect_zeroes=on",
        )
    return DriveOptions(
        cache=cache,
        io=io or section.io or None,
        discard=discard or None,
        detect_zeroes=zeroes or _possible(section.detect_zeroes, discard),
    )


def _possible(zeroes: str, discard: str) -> str | None:
    """What is configured for all disks, as far as this one's discard allows it."""
    return "on" if zeroes == "unmap" and discard != "unmap" else zeroes or None


class _Asked:
    """What flavor and image say of one disk: of it alone, else of all."""

    def __init__(self, properties: Properties, names: Sequence[str]) -> None:
        self._properties = properties
        self._suffixes = (*(f"{AT}{name}" for name in names), "")

    def word(self, key: str, known: Sequence[str]) -> str:
        """:raises InvalidRequest: not one of ``known``"""
        found = (self._properties.word(f"{key}{suffix}", "", [*known, ""]) for suffix in self._suffixes)
        return next((word for word in found if word), "")


def threads(properties: Properties, section: DisksSection, buses: Sequence[Bus]) -> int:
    """How many I/O threads an instance with disks on ``buses`` has."""
    asked = properties.number("hw_disk_iothreads", most=MOST_THREADS)
    return (section.iothreads if asked is None else asked) if _threaded(buses) else 0


def check_threads(properties: Properties, buses: Sequence[Bus]) -> None:
    """:raises InvalidRequest: they are asked for, and no disk can use one"""
    if properties.number("hw_disk_iothreads", most=MOST_THREADS) and not _threaded(buses):
        raise InvalidRequest(
            reason="hw_disk_iothreads: only disks on virtio and scsi can use an I/O thread", hint="use another disk bus"
        )


def _threaded(buses: Sequence[Bus]) -> bool:
    return any(bus in THREADED for bus in buses)


def encrypted(properties: Properties) -> bool | None:
    """Shall local disks be encrypted; None: nobody says.

    :raises InvalidRequest: in a way that there is not
    """
    properties.word("hw_ephemeral_encryption_format", "luks", ("luks",))
    return properties.flag("hw_ephemeral_encryption")
