"""Digests in the form ``sha256:<hex>``."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from cowshed.contract.callbacks import SILENT, Progress
from cowshed.errors import DigestMismatch, InvalidRequest

LENGTHS = {"sha256": 64, "sha512": 128}
_CHUNK = 1 << 20


def parse(text: str) -> tuple[str, str]:
    """(algorithm, hex) of ``sha256:..`` or ``sha512:..``. :raises InvalidRequest:"""
    algorithm, _, value = text.strip().lower().partition(":")
    if algorithm not in LENGTHS or len(value) != LENGTHS[algorithm] or not re.fullmatch(r"[0-9a-f]+", value):
        raise InvalidRequest(
            reason=f"{text!r} is not a digest", hint="write sha256: and 64 hex digits, or sha512: and 128"
        )
    return algorithm, value


def check(subject: str, algorithm: str, expected: str, actual: str) -> None:
    """:raises DigestMismatch: they differ"""
    if expected.lower() != actual.lower():
        raise DigestMismatch(subject=subject, algorithm=algorithm, expected=expected, actual=actual)


def of_file(path: Path, algorithm: str = "sha256", *, progress: Progress = SILENT) -> str:
    """The hex digest of the whole file."""
    hasher = hashlib.new(algorithm)
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            progress.check()
            hasher.update(chunk)
            progress.update(len(chunk))
    return hasher.hexdigest()
