"""The head of a LUKS1 container, written natively: the key of the data, locked by the disk's own key.

Everything in front of the data that QEMU (and cryptsetup) need to open it. Written here because
qemu-img first measures the machine for a second or more to choose how long to stretch the key,
and fails where the machine is too busy to be measured; the head of a random key needs no measuring.

Source: "LUKS1 On-Disk Format Specification", version 1.2.3. The offsets are QEMU's: key material at
multiples of 4 KiB, the data behind eight slots of it.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cowshed.errors import DataCorrupt, InternalError

MAGIC: Final = b"LUKS\xba\xbe"
SECTOR: Final = 512
PINNED: Final = {"cipher": "aes-256", "cipher-mode": "xts", "iv": "plain64", "hash": "sha256"}
LEAST_ITERATIONS: Final = 1000  # cryptsetup's

_HEAD: Final = struct.Struct(">6sH32s32s32sII20s32sI40s")
_SLOT: Final = struct.Struct(">II32sII")
_SLOTS: Final = 8
_ACTIVE: Final = 0x00AC71F3
_IDLE: Final = 0x0000DEAD
_STRIPES: Final = 4000
_KEY: Final = 64  # bytes: two AES-256 keys for XTS
_FIRST: Final = 4096  # where the first slot's key material is
_MATERIAL: Final = -(-_KEY * _STRIPES // 4096) * 4096  # bytes kept for that of one slot
LENGTH: Final = _FIRST + _SLOTS * _MATERIAL
"""Bytes in front of the data."""


def parameters(iterations: int) -> dict[str, str]:
    """What a new container is made with, to be written down with the disk."""
    return {**PINNED, "iterations": str(max(LEAST_ITERATIONS, iterations))}


def build(key: bytes, chosen: Mapping[str, str]) -> bytes:
    """``LENGTH`` bytes that open with ``key``. The data's own key is new and random; it is nowhere else.

    :param chosen: :func:`parameters`
    """
    if any(chosen.get(name) != text for name, text in PINNED.items()):
        raise InternalError(reason=f"cannot make a LUKS container with {dict(chosen)}")
    iterations = int(chosen["iterations"])
    master, digest_salt, slot_salt = secrets.token_bytes(_KEY), secrets.token_bytes(32), secrets.token_bytes(32)
    head = _HEAD.pack(
        MAGIC,
        1,
        b"aes",
        b"xts-plain64",
        b"sha256",
        LENGTH // SECTOR,
        _KEY,
        hashlib.pbkdf2_hmac("sha256", master, digest_salt, iterations, 20),
        digest_salt,
        iterations,
        str(uuid.uuid4()).encode(),
    )
    slots = b"".join(
        _SLOT.pack(
            _IDLE if number else _ACTIVE,
            0 if number else iterations,
            bytes(32) if number else slot_salt,
            (_FIRST + number * _MATERIAL) // SECTOR,
            _STRIPES,
        )
        for number in range(_SLOTS)
    )
    locked = _encrypt(hashlib.pbkdf2_hmac("sha256", key, slot_salt, iterations, _KEY), _split(master))
    front = (head + slots).ljust(_FIRST, b"\0") + locked
    return front.ljust(LENGTH, b"\0")


def _split(master: bytes) -> bytes:
    """Anti-forensic: all stripes are needed to get ``master`` back, so that losing a few sectors loses it."""
    stripes = []
    mixed = bytes(_KEY)
    for _ in range(_STRIPES - 1):
        stripe = os.urandom(_KEY)
        stripes.append(stripe)
        mixed = _diffuse(_xor(mixed, stripe))
    stripes.append(_xor(mixed, master))
    return b"".join(stripes)


def _diffuse(block: bytes) -> bytes:
    """Each digest-sized piece becomes the hash of its number and itself."""
    size = 32
    pieces = (block[start : start + size] for start in range(0, len(block), size))
    return b"".join(
        hashlib.sha256(struct.pack(">I", number) + piece).digest()[: len(piece)] for number, piece in enumerate(pieces)
    )


def _xor(one: bytes, other: bytes) -> bytes:
    return (int.from_bytes(one, "little") ^ int.from_bytes(other, "little")).to_bytes(len(one), "little")


def _encrypt(key: bytes, data: bytes) -> bytes:
    """AES-256-XTS by sectors of 512 bytes, whose numbers (from 0) are the vectors."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    sectors = []
    for start in range(0, len(data), SECTOR):
        vector = (start // SECTOR).to_bytes(16, "little")
        cipher = Cipher(algorithms.AES(key), modes.XTS(vector)).encryptor()
        sectors.append(cipher.update(data[start : start + SECTOR]) + cipher.finalize())
    return b"".join(sectors)


def payload_offset(fd: int, name: Path) -> int:
    """Where the data begins in a container: what is before it, the guest neither sees nor writes.

    :raises DataCorrupt: there is no LUKS1 header
    """
    return offset_in(os.pread(fd, _HEAD.size, 0), name)


def offset_in(data: bytes, name: Path) -> int:
    """The same, from the first bytes (512 are more than enough) of a container. :raises DataCorrupt:"""
    if len(data) < _HEAD.size or not data.startswith(MAGIC):
        raise DataCorrupt(path=name, reason="its LUKS header is gone")
    head = _HEAD.unpack_from(data)
    if head[1] != 1:
        raise DataCorrupt(path=name, reason=f"its LUKS header has version {head[1]}; QEMU's has 1")
    return int(head[5]) * SECTOR
