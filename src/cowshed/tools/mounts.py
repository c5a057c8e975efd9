"""Mounts that are ours: directories shown again read-only, exports of file servers. Root's work; repeating is success."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from cowshed.errors import ToolMissing
from cowshed.tools import filesystem, privilege, run

NFS: Final = ("soft", "timeo=100", "retrans=3", "retry=0", "nosuid", "nodev")
"""An error after some 40 seconds without the server, rather than a guest and a virtiofsd that nobody can end; and at
once where it does not answer a mount."""

_TABLE: Final = Path("/proc/self/mountinfo")
_OCTAL: Final = re.compile(r"\\([0-7]{3})")


def mounted(target: Path) -> bool:
    """Is something mounted there?"""
    return target in set(_points())


def below(place: Path) -> list[Path]:
    """Where something is mounted below ``place``, each once."""
    return sorted({point for point in _points() if point.is_relative_to(place) and point != place})


def _points() -> Iterator[Path]:
    for line in _TABLE.read_text(errors="surrogateescape").splitlines():
        yield Path(_OCTAL.sub(lambda found: chr(int(found[1], 8)), line.split()[4]))


def bind_read_only(source: Path, target: Path) -> None:
    """Show the directory ``source`` at ``target``, where nobody can write; what is mounted below it is not shown.

    :raises PermissionDenied: :raises ToolFailed:
    """
    options = ",".join(["remount", "bind", "ro", *filesystem.mount_flags(source)])
    _mount(target, ["--bind", "--", str(source), str(target)], ["-o", options, "--", str(target)])


def require_nfs() -> None:
    """:raises ToolMissing:"""
    if run.find("mount.nfs") is None:
        raise ToolMissing(tool="mount.nfs", hint="install the package nfs-common")


def nfs(export: str, target: Path, *, read_only: bool) -> None:
    """Mount the ``export`` (``SERVER:/DIRECTORY``) at ``target``.

    :raises PermissionDenied: :raises ToolFailed: :raises DeadlineExceeded: the server does not answer
    """
    options = ",".join([*NFS, "ro" if read_only else "rw"])
    _mount(target, ["-t", "nfs", "-o", options, "--", export, str(target)])


def _mount(target: Path, *steps: list[str]) -> None:
    """All of the steps, or none."""
    if mounted(target):
        return
    filesystem.make_directory(target)
    try:
        for words in steps:
            privilege.run(["mount", *words], timeout=60)
    except BaseException:
        unmount(target)
        raise


def unmount(target: Path) -> None:
    """And remove the mount point; already gone is success.

    :raises PermissionDenied: :raises ToolFailed: it is in use
    """
    while mounted(target):
        privilege.run(["umount", "--", str(target)], timeout=60)
    with filesystem.errors_of(target, "remove"):
        if target.is_dir():
            target.rmdir()
