"""Digests."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from cowshed.errors import DigestMismatch, InvalidRequest
from cowshed.tools import checksum


@pytest.mark.parametrize("algorithm", ["sha256", "sha512"])
def test_a_digest_is_read_and_compared(algorithm: str) -> None:
    value = hashlib.new(algorithm, b"x").hexdigest()
    assert checksum.parse(f" {algorithm.upper()}:{value.upper()}\n") == (algorithm, value)
    checksum.check("it", algorithm, value.upper(), value)
    with pytest.raises(DigestMismatch) as caught:
        checksum.check("it", algorithm, value, "0" * len(value))
    assert caught.value.expected == value


@pytest.mark.parametrize(
    "text", ["", "sha256", "sha256:", "sha256:12", "md5:" + "0" * 32, "sha256:" + "g" * 64, "sha512:" + "0" * 64]
)
def test_what_is_no_digest(text: str) -> None:
    with pytest.raises(InvalidRequest):
        checksum.parse(text)


@pytest.mark.parametrize("size", [0, 1, (1 << 20) + 1])
def test_of_a_file(tmp_path: Path, size: int) -> None:
    data = b"\x5a" * size
    (tmp_path / "file").write_bytes(data)
    assert checksum.of_file(tmp_path / "file") == hashlib.sha256(data).hexdigest()


def test_the_quicker_one_is_what_was_asked_for_or_sha256() -> None:
    assert checksum.quicker("sha256") == "sha256"
    chosen = {checksum.quicker("sha512") for _ in range(100)}  # tried out once, so always the same
    assert len(chosen) == 1
    assert chosen <= {"sha256", "sha512"}
