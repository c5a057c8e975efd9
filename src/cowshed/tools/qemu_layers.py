"""qemu-img on the layers of a qcow2 chain that nobody has open: rebase and commit, every format given."""

from __future__ import annotations

from pathlib import Path

from cowshed.errors import Busy, ToolFailed
from cowshed.model.disk import DiskFormat
from cowshed.tools.limits import CONVERT
from cowshed.tools.qemu_img import DRIVER
from cowshed.tools.run import run

_LONG = 86400.0  # seconds; it may copy a whole disk


def rebase(path: Path, base: tuple[Path, DiskFormat] | None, *, content: bool = True) -> None:
    """Let the overlay ``path`` stand on ``base`` (None: on nothing).

    :param content: take along what it would lose; False: ``base`` has the same content as what was below
    :raises Busy: a guest uses it
    """
    words = ["-b", str(base[0]), "-F", DRIVER[base[1]]] if base else ["-b", ""]
    _run(path, ["rebase", "-q", "-f", "qcow2", *([] if content else ["-u"]), *words, str(path.absolute())])


def commit(top: Path, base: Path) -> None:
    """Write what is in ``top``, and between the two, down into ``base``. :raises Busy: a guest uses them"""
    _run(top, ["commit", "-q", "-f", "qcow2", "-d", "-b", str(base.absolute()), str(top.absolute())])


def _run(path: Path, words: list[str]) -> None:
    try:
        run(["qemu-img", *words], timeout=_LONG, limits=CONVERT)
    except ToolFailed as error:
        if "Failed to get" in error.output and "lock" in error.output:
            raise Busy(what=path, holder="a guest or a tool", hint="stop the instance first") from error
        raise
