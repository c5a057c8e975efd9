"""What the disks of an instance are called: by us, and by its user."""

from __future__ import annotations

ROOT, CDROM, LOCAL, EPHEMERAL, SWAP = "disk", "disk.cdrom", "disk.local", "disk.eph", "disk.swap"
CONFIG_DRIVE, KERNEL, RAMDISK = "disk.config", "kernel", "ramdisk"
RESCUED = ".rescue"  # the end of the names of the disks it is rescued with
LOCAL_BACKEND = "raw"  # kernel, ramdisk and config drive are plain files on every host
LOCAL_ONLY = (CONFIG_DRIVE, KERNEL, RAMDISK)

WORDS = {"root": ROOT, "ephemeral": LOCAL, "cdrom": CDROM, "swap": SWAP, "local": LOCAL}


def disk_name(word: str) -> str:
    """The name of the disk that a user calls ``word``: root, ephemeral, swap, cdrom, eph0, or as it is."""
    return WORDS.get(word, f"disk.{word}" if word.startswith("eph") and word[3:].isdigit() else word)


def read_only(name: str) -> bool:
    """Is the disk ``name`` read once and never written?"""
    return name.removesuffix(RESCUED) in (CONFIG_DRIVE, CDROM)


def words_of(name: str) -> tuple[str, ...]:
    """Everything a user may call the disk ``name``."""
    short = (name.removeprefix("disk."),) if name.startswith(EPHEMERAL) else ()
    return (name, *(word for word, known in WORDS.items() if known == name), *short)
