"""The images that are measured, made once in ``build/bench``."""

from __future__ import annotations

import os
import random
import subprocess
from pathlib import Path

from bench.measure import sh

MiB = 1 << 20
GiB = 1 << 30


def dense(place: Path) -> Path:
    """1 GiB virtual, 600 MiB of it random."""
    return _raw(place / "dense.raw", GiB, [(number * MiB, MiB) for number in range(600)], random_bytes)


def sparse(place: Path) -> Path:
    """4 GiB virtual, a tenth of it data in pieces of 1 MiB."""
    return _raw(place / "sparse.raw", 4 * GiB, [(number * 10 * MiB, MiB) for number in range(409)], random_bytes)


def small(place: Path) -> Path:
    """256 MiB virtual, 96 MiB data."""
    return _raw(place / "small.raw", 256 * MiB, [(number * 2 * MiB, MiB) for number in range(96)], random_bytes)


def system(place: Path) -> Path:
    """2 GiB virtual with about 700 MiB of real files (programs, libraries, texts) in ext4."""
    target = place / "system.raw"
    if target.exists():
        return target
    folder = place / "files"
    folder.mkdir(exist_ok=True)
    room = 700 * MiB
    for source in sorted(Path("/usr/lib").rglob("*")):
        if source.is_file() and not source.is_symlink() and 4096 < source.stat().st_size < 64 * MiB:
            room -= source.stat().st_size
            if room < 0:
                break
            subprocess.run(["cp", "--", source, folder / f"{room}-{source.name}"], check=True)
    part = target.with_suffix(".part")
    with part.open("wb") as file:
        file.truncate(2 * GiB)
    sh("mkfs.ext4", "-q", "-F", "-d", folder, part)
    sh("rm", "-r", folder)
    part.rename(target)
    return target


def random_bytes(generator: random.Random, size: int) -> bytes:
    return generator.randbytes(size)


def _raw(target: Path, size: int, extents: list[tuple[int, int]], content) -> Path:  # type: ignore[no-untyped-def]
    if target.exists():
        return target
    generator = random.Random(1)
    part = target.with_suffix(".part")
    with part.open("wb") as file:
        for offset, length in extents:
            file.seek(offset)
            file.write(content(generator, length))
        file.truncate(size)
    part.rename(target)
    return target


def qcow2(raw: Path, *, compressed: bool = False) -> Path:
    target = raw.with_suffix(".c.qcow2" if compressed else ".qcow2")
    if not target.exists():
        words = ["-c"] if compressed else []
        sh("qemu-img", "convert", "-f", "raw", "-O", "qcow2", "-m", "16", "-W", *words, raw, f"{target}.part")
        os.rename(f"{target}.part", target)
    return target


def warm(path: Path) -> None:
    """Into the page cache, so that both sides read it from there."""
    with path.open("rb") as file:
        while file.read(16 * MiB):
            pass
