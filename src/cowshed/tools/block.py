"""Block devices: their size, zeros, discards, and who may open them.

Sizes come from sysfs, which needs no right to open the device and works whatever the node is: a
device node, or a link to one (with udev).
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
from contextlib import suppress
from pathlib import Path
from typing import Final

from cowshed import clock
from cowshed.config import user
from cowshed.contract.callbacks import SILENT, Progress
from cowshed.errors import DeadlineExceeded, OperatorError
from cowshed.tools import privilege
from cowshed.units import MiB

_BLKDISCARD: Final = 0x1277  # linux/fs.h
_BLKZEROOUT: Final = 0x127F
_SECTOR: Final = 512
STEP: Final = 256 * MiB  # of one ioctl, so that progress shows and a stop is heard


def size(node: Path) -> int | None:
    """Bytes; None where there is no such device."""
    try:
        facts = node.stat()
    except OSError:
        return None
    if not stat.S_ISBLK(facts.st_mode):
        return None
    with suppress(OSError, ValueError):
        place = Path(f"/sys/dev/block/{os.major(facts.st_rdev)}:{os.minor(facts.st_rdev)}/size")
        return int(place.read_text()) * _SECTOR
    return None


def wait(node: Path, *, timeout: float = 10) -> None:
    """Until the node is there: udev makes it, where there is a udev, a moment after the device."""
    deadline = clock.Deadline(timeout, f"the appearance of {node}")
    while size(node) is None:
        if deadline.passed:
            raise DeadlineExceeded(what=f"the appearance of {node}", seconds=timeout)
        clock.current().sleep(0.02)


def grant(node: Path) -> None:
    """Let this user open the node of one of our volumes; root may already.

    The owner is changed, not the mode: udev's rules set group and mode again at every change of the
    device, and leave the owner alone.
    """
    us = os.geteuid()
    if us != 0 and node.stat().st_uid != us:
        privilege.run(["chown", "--", user.name(), str(node)])


def open_device(node: Path, flags: int = os.O_RDONLY) -> int:
    """A descriptor of a block device, never of anything else that lies there."""
    fd = os.open(node, flags | os.O_CLOEXEC)
    if not stat.S_ISBLK(os.fstat(fd).st_mode):
        os.close(fd)
        raise OperatorError(reason=f"{node} is not a block device")
    return fd


def zero(fd: int, start: int, end: int, *, progress: Progress = SILENT) -> None:
    """Let these bytes read as zeros, by the device's own command where it has one (BLKZEROOUT)."""
    _ranges(fd, _BLKZEROOUT, start, end, progress)


def discard(fd: int, start: int, end: int, *, progress: Progress = SILENT) -> None:
    """Tell the device that these bytes are not needed. :raises OSError: EOPNOTSUPP where it cannot"""
    _ranges(fd, _BLKDISCARD, start, end, progress)


def _ranges(fd: int, request: int, start: int, end: int, progress: Progress) -> None:
    for begin in range(start, end, STEP):
        progress.check()
        length = min(STEP, end - begin)
        fcntl.ioctl(fd, request, struct.pack("QQ", begin, length))
        progress.update(length)
