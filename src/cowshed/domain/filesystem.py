"""Shared directories: virtiofs, served by libvirt or by somebody at a socket."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from cowshed.domain.element import Element, value
from cowshed.model.share import OpenedShare

QUEUE: Final = 1024  # requests under way; QEMU's own 128 is few for a file system


@dataclass(frozen=True, slots=True, kw_only=True)
class Filesystem(Element):
    """``target`` is the tag that the guest mounts."""

    TAG: ClassVar[str] = "filesystem"

    type: str | None = value("@type")
    driver: str | None = value("driver/@type")
    queue: int | None = value("driver/@queue")
    directory: Path | None = value("source/@dir")
    socket: Path | None = value("source/@socket")
    target: str | None = value("target/@dir")
    alias: str | None = value("alias/@name")


def filesystem(opened: OpenedShare) -> Filesystem:
    return Filesystem(
        type="mount",
        driver="virtiofs",
        queue=QUEUE,
        directory=opened.directory,
        socket=opened.socket,
        target=opened.share.tag,
        alias=opened.share.alias,
    )
