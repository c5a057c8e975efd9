"""Disks that QEMU encrypts (LUKS1, inside QEMU): moving their content with qemu-img.

A key reaches qemu-img as a sealed file in memory that only this user's processes can open: it is in
no argument list, no environment and no file system.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.model.disk import DiskFormat, DiskSource, DiskType
from cowshed.tools import filesystem, luks_header, qemu_img, qemu_source

_SEALS: Final = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE

Keys = Callable[[str], bytes]  # id of a key, or of a libvirt secret -> key
Node = dict[str, Any]  # a block node of QEMU: options, nested where QEMU's are


# --- keys on their way ------------------------------------------------------------------------


@contextmanager
def handed(keys: Mapping[str, bytes]) -> Iterator[tuple[list[str], list[int]]]:
    """Options and descriptors that give ``keys`` (QEMU's name of each: the key) to a tool of QEMU."""
    words: list[str] = []
    fds: list[int] = []
    try:
        for name, key in keys.items():
            fd = os.memfd_create("key", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
            fds.append(fd)
            os.write(fd, key)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
            words += ["--object", f"secret,id={name},file=/proc/self/fd/{fd}"]
        yield words, fds
    finally:
        for fd in fds:
            os.close(fd)


class Chain:
    """A disk and its parents as QEMU shall open them, with the keys that takes."""

    def __init__(self, source: DiskSource, keys: Keys, *, prefix: str = "source") -> None:
        self.keys: dict[str, bytes] = {}
        self._prefix = prefix
        self._find = keys
        self.node = self._node(source)

    @property
    def options(self) -> str:
        """For ``--image-opts``."""
        return ",".join(f"{name}={text.replace(',', ',,')}" for name, text in _flat(self.node))

    def _protocol(self, source: DiskSource) -> Node:
        """What lies under the format: a file, a device, an image of a cluster, which wants a key of its own."""
        if source.path is not None and source.type != DiskType.NETWORK:
            driver = "host_device" if source.type == DiskType.BLOCK else "file"
            return {"driver": driver, "filename": str(source.path.absolute())}
        name = ""
        if source.secret_uuid:
            name = f"{self._prefix}{len(self.keys)}"
            self.keys[name] = self._find(source.secret_uuid)
        return qemu_source.storage(source, name)

    def _node(self, source: DiskSource) -> Node:
        node: Node = {"driver": qemu_img.DRIVER[source.format]}
        if source.encryption:
            name = f"{self._prefix}{len(self.keys)}"
            self.keys[name] = self._find(source.encryption.key_id)
            if source.format == DiskFormat.QCOW2:
                node |= {"encrypt": {"format": "luks", "key-secret": name}}
            else:
                node |= {"driver": "luks", "key-secret": name}
        node["file"] = self._protocol(source)
        if source.backing:
            node["backing"] = self._node(source.backing)
        return node


def _flat(node: Node, prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, item in node.items():
        if isinstance(item, list):
            item = {str(number): one for number, one in enumerate(item)}
        if isinstance(item, dict):
            yield from _flat(item, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", str(item)


# --- work -------------------------------------------------------------------------------------


def create_raw(fd: int, size: int, key: bytes, parameters: Mapping[str, str]) -> None:
    """A container of ``size`` bytes in the empty file ``fd``; it reads as noise until it is written to."""
    filesystem.write_all(fd, luks_header.build(key, parameters))
    os.ftruncate(fd, luks_header.LENGTH + size)


def copy(
    source: DiskSource,
    target: DiskSource,
    keys: Keys,
    *,
    compress: bool = False,
    zero: bool = False,
    progress: Progress = SILENT,
    size: int = 0,
) -> None:
    """All bytes of ``source`` into ``target``, which exists and is large enough; either may be encrypted.

    :param zero: the target reads as zeros so far
    :param size: bytes, to say how long it may take
    :raises Busy: a guest holds one of them :raises NoSpace: :raises ToolFailed:
    """
    progress.phase("encrypt" if target.encryption else "decrypt" if source.encryption else "copy", size or None)
    progress.check()
    below, above = Chain(source, keys), Chain(target, keys, prefix="target")
    flags = ["-c"] if compress else []
    flags += ["--target-is-zero"] if zero else []
    workers = str(min(16, max(4, os.cpu_count() or 1)))
    with handed({**below.keys, **above.keys}) as (secret, fds):
        qemu_img.command(
            _place(target), "convert", "-q", *secret, "-W", "-m", workers, "-n", *flags,
            "--image-opts", "--target-image-opts", "--", below.options, above.options,
            fds=fds, timeout=qemu_img.patience(size),
        )  # fmt: skip
    progress.update(size)


def resize(source: DiskSource, size: int, keys: Keys, *, preallocation: str = "off") -> None:
    """Grow an encrypted image to ``size`` bytes. :raises Busy: a guest uses it"""
    chain = Chain(source, keys)
    with handed(chain.keys) as (secret, fds):
        qemu_img.command(
            _place(source), "resize", "-q", *secret, f"--preallocation={preallocation}", "--image-opts",
            "--", chain.options, str(size),
            fds=fds, timeout=qemu_img.patience(size),
        )  # fmt: skip


def snapshot(source: DiskSource, action: str, name: str, keys: Keys) -> None:
    """As ``qemu_img.snapshot``, of an encrypted qcow2 file; its parents are not opened."""
    chain = Chain(replace(source, backing=None), keys)
    with handed(chain.keys) as (secret, fds):
        words = (*secret, "-q", action, name, "--image-opts", chain.options)
        qemu_img.command(_place(source), "snapshot", *words, fds=fds, timeout=600)


def name_base(source: DiskSource, base: Path, base_format: DiskFormat, keys: Keys) -> None:
    """As ``qemu_img.name_base``, of an encrypted qcow2 file."""
    chain = Chain(replace(source, backing=None), keys)
    named = ("-u", "-F", qemu_img.DRIVER[base_format], "-b", str(base.absolute()))
    with handed(chain.keys) as (secret, fds):
        words = (*secret, "-q", *named, "--image-opts", chain.options)
        qemu_img.command(_place(source), "rebase", *words, fds=fds, timeout=60)


def _place(source: DiskSource) -> Path:
    return source.path or Path(source.name)
