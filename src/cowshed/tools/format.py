"""Inspection: what a file of unknown content is, and whether it is harmless. Comes before any tool.

Our own bounded reader decides. It must find exactly one format, and it must be the declared one;
"I could not tell" is never "raw" for anything that has a known signature. For files declared raw
oslo.utils' inspector, which was written after the CVEs of 2024, is asked as a second opinion.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from cowshed.errors import ImageRejected
from cowshed.model.disk import DiskFormat
from cowshed.tools.qcow2 import header as qcow2
from cowshed.tools.qcow2.mapping import data_bytes
from cowshed.units import TiB, format_size

HEAD: Final = 64 * 1024  # every signature but the footers lies in this
SECTOR: Final = 512
_OPAQUE: Final = (DiskFormat.AKI, DiskFormat.ARI)
_PLAIN: Final = (None, DiskFormat.RAW, DiskFormat.AMI)  # an AMI is a raw file system
_PACKED: Final = ("gzip file", "bzip2 file", "xz file", "lz4 file", "zstd file")  # what a ramdisk usually is


@dataclass(frozen=True, slots=True)
class Inspection:
    """``virtual_size`` is what a guest sees, ``data`` the bytes of it that are not zero by the mapping (or holes)."""

    format: DiskFormat
    virtual_size: int
    data: int


def _starts(magic: bytes, offset: int = 0) -> Callable[[bytes], bool]:
    return lambda head: head[offset : offset + len(magic)] == magic


def _is_descriptor(text: bytes) -> bool:
    """As QEMU sees it: comments and blank lines, then a version (block/vmdk.c accepts 1 to 3)."""
    if text.lstrip().startswith(b"# Disk DescriptorFile"):
        return True
    lines = (line.strip() for line in text.split(b"\n"))
    first = next((line for line in lines if line and not line.startswith(b"#")), b"")
    return first in (b"version=1", b"version=2", b"version=3")


SIGNATURES: Final[dict[str, Callable[[bytes], bool]]] = {
    "qcow2": _starts(qcow2.MAGIC),
    "QED": _starts(b"QED\0"),
    "VMDK": lambda head: head[:4] in (b"KDMV", b"COWD") or _is_descriptor(head[:2048]),
    "VDI": _starts(b"\x7f\x10\xda\xbe", 0x40),
    "VHD": _starts(b"conectix"),
    "VHDX": _starts(b"vhdxfile"),
    "LUKS": _starts(b"LUKS\xba\xbe"),
    "ploop": lambda head: head[:16] in (b"WithoutFreeSpace", b"WithouFreSpacExt"),
    "Bochs": _starts(b"Bochs Virtual HD Image"),
    "cloop": _starts(b"#!/bin/sh\n#V2.0 Format"),
    "tar archive": _starts(b"ustar", 257),
    "bzip2 file": lambda head: head[:3] == b"BZh" and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"),
    "7z archive": _starts(b"7z\xbc\xaf\x27\x1c"),
    "zip archive": _starts(b"PK\x03\x04"),
    "lz4 file": _starts(b"\x04\x22\x4d\x18"),
    "gzip file": lambda head: head[:3] == b"\x1f\x8b\x08",
    "xz file": _starts(b"\xfd7zXZ\0"),
    "zstd file": _starts(b"\x28\xb5\x2f\xfd"),
    "ISO 9660 image": _starts(b"CD001", 32769),
}
FOOTERS: Final[dict[str, bytes]] = {"VHD": b"conectix", "DMG": b"koly"}  # old VHDs have one of 511 bytes
OURS: Final = {"qcow2": DiskFormat.QCOW2, "ISO 9660 image": DiskFormat.ISO, "ploop": DiskFormat.PLOOP}


def found_in(head: bytes, tail: bytes = b"") -> list[str]:
    """Names of all known formats whose signature is in the first ``HEAD`` or last 512 bytes."""
    found = [name for name, matches in SIGNATURES.items() if matches(head)]
    footers = [name for name, magic in FOOTERS.items() if magic in (tail[: len(magic)], tail[1 : len(magic) + 1])]
    return found + [name for name in footers if name not in found]


def decide(found: Collection[str], declared: DiskFormat | None, image: str) -> DiskFormat:
    """The one format. :raises ImageRejected: there are several, or not the declared one"""
    if len(found) > 1:
        raise ImageRejected(image=image, reason=f"it is several things at once: {', '.join(found)}")
    name = next(iter(found), None)
    if declared in _OPAQUE and name in (None, *_PACKED):
        assert declared is not None
        return declared
    if name is None:
        if declared in _PLAIN:
            return DiskFormat.RAW
        raise ImageRejected(image=image, reason=f"it is declared {declared}, but has no {declared} signature")
    if name not in OURS:
        raise ImageRejected(
            image=image,
            reason=f"it is a {name}, which is not accepted" + (f" (declared {declared})" if declared else ""),
            hint="convert it to qcow2 or raw on a machine where you trust it",
        )
    actual = OURS[name]
    if declared not in (None, actual):
        raise ImageRejected(
            image=image, reason=f"it is declared {declared}, but it is {actual}", hint=f"declare it as {actual}"
        )
    return actual


def look(head: bytes, *, declared: DiskFormat | None, allowed: Collection[DiskFormat], image: str) -> DiskFormat:
    """Judge the first ``HEAD`` bytes while the rest is still on its way.

    :raises ImageRejected: it is clear already that it cannot be accepted
    """
    actual = decide(found_in(head), declared, image)
    _refuse_unlisted(actual, allowed, image)
    if actual == DiskFormat.QCOW2:
        try:
            qcow2.refuse_unsafe(qcow2.parse_header(head))
        except qcow2.QcowError as error:
            raise ImageRejected(image=image, reason=str(error)) from error
    return actual


def inspect(
    fd: int,
    *,
    image: str,
    declared: DiskFormat | None = None,
    allowed: Collection[DiskFormat] = (DiskFormat.RAW, DiskFormat.QCOW2, DiskFormat.ISO),
    max_virtual_size: int = 16 * TiB,
) -> Inspection:
    """Judge a whole file by its open descriptor (so that what is checked is what is used).

    :param declared: the announced format; None: exactly one accepted format is detected
    :raises ImageRejected: with the reason
    """
    facts = os.fstat(fd)
    size = facts.st_size
    if size == 0:
        raise ImageRejected(image=image, reason="it is empty")
    tail = os.pread(fd, SECTOR, size - SECTOR) if size >= SECTOR else b""
    actual = decide(found_in(os.pread(fd, HEAD, 0), tail), declared, image)
    _refuse_unlisted(actual, allowed, image)
    if actual == DiskFormat.QCOW2:
        virtual_size, data = _inspect_qcow2(fd, size, image, max_virtual_size)
    elif actual == DiskFormat.PLOOP:
        virtual_size, data = _inspect_ploop(fd, image, max_virtual_size)
    else:
        virtual_size, data = -(-size // SECTOR) * SECTOR, min(size, facts.st_blocks * 512)
        if actual == DiskFormat.RAW:
            _second_opinion(fd, image)
    if virtual_size > max_virtual_size:
        raise ImageRejected(
            image=image,
            reason=f"it claims {format_size(virtual_size)}, more than the {format_size(max_virtual_size)} allowed",
        )
    return Inspection(actual, virtual_size, data)


def _refuse_unlisted(actual: DiskFormat, allowed: Collection[DiskFormat], image: str) -> None:
    if actual not in allowed and actual not in _OPAQUE:
        raise ImageRejected(
            image=image,
            reason=f"format {actual} is not accepted here",
            hint="see [images] formats in the configuration",
        )


def _inspect_qcow2(fd: int, size: int, image: str, max_virtual_size: int) -> tuple[int, int]:
    try:
        header = qcow2.read_header(fd)
        qcow2.refuse_unsafe(header)
        if header.size > max_virtual_size:
            return header.size, 0  # refused by the caller, before any table is read
        if header.size < SECTOR:
            raise qcow2.QcowError("its disk has no bytes")
        qcow2.refuse_inconsistent(header, size)
        data = data_bytes(fd, header)
    except qcow2.QcowError as error:
        raise ImageRejected(image=image, reason=str(error)) from error
    return header.size // SECTOR * SECTOR, data  # QEMU shows whole sectors only


def _inspect_ploop(fd: int, image: str, max_virtual_size: int) -> tuple[int, int]:
    """An expanded data file, whole and closed."""
    from cowshed.tools import ploop

    try:
        header = ploop.read_header(fd)
        if header.size > max_virtual_size:
            return header.size, 0  # refused by the caller
        if header.in_use:
            raise ploop.PloopError("it was not closed properly; repair it with qemu-img check -r")
        used = sum(1 for entry in ploop.check(fd, header) if entry)
    except ploop.PloopError as error:
        raise ImageRejected(image=image, reason=str(error)) from error
    return header.size, min(used * header.cluster, header.size)


def _second_opinion(fd: int, image: str) -> None:
    """oslo.utils may know a signature that we do not; what it takes for raw, GPT or ISO is fine."""
    from oslo_utils.imageutils import format_inspector

    harmless = {"raw", "gpt", "iso"}
    with os.fdopen(os.dup(fd), "rb") as file:
        file.seek(0)
        wrapper = format_inspector.InspectWrapper(file)
        for _ in range(4):  # every inspector decides within the first few hundred KiB
            if not wrapper.read(HEAD):
                break
        try:
            formats = [str(found) for found in wrapper.formats or []]
        except Exception as error:  # its errors have no common base; being unsure is a refusal
            raise ImageRejected(image=image, reason=f"it cannot be told what it is: {error}") from error
    if strange := [name for name in formats if name not in harmless]:
        raise ImageRejected(image=image, reason=f"it is declared raw, but looks like {', '.join(strange)}")
