"""Encrypted images of qemu-img's making, for tests that want another's than ours."""

from __future__ import annotations

import subprocess
from typing import Final

import pytest

_ATTEMPTS: Final = 50


def qemu_img(*words: object) -> None:
    """Run qemu-img, which makes an encrypted image.

    It measures its key derivation first, and every tenth time or so sees no CPU time pass ("Unable to get
    accurate CPU usage"): nothing but chance, whatever the iteration time asked for, and so it is asked again.
    """
    command = ["qemu-img", *map(str, words)]
    for attempt in range(_ATTEMPTS):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode == 0:
            return
        if "accurate CPU usage" not in done.stderr or attempt == _ATTEMPTS - 1:
            pytest.fail(f"{' '.join(command)}: {done.stderr}")
