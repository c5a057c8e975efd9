"""dm-crypt under block volumes: LUKS2 and plain, every parameter given.

Plain mode has no header, so what the tool's defaults were decides what an old volume opens as
(cryptsetup 2.7 changed the default hash): :data:`PARAMETERS` are written into the manifest when a
volume is made, and given again each time. Keys go through standard input only.

Our keys are random, so LUKS2's key derivation has nothing to stretch: pbkdf2 with few iterations
opens in a moment and without the gigabyte of memory of the default (argon2id).
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from cowshed.errors import Busy, InvalidRequest, OperatorError, ToolFailed
from cowshed.model.disk import EncryptionFormat
from cowshed.tools import block, privilege
from cowshed.units import MiB

HEADER: Final = 16 * MiB  # of LUKS2: its metadata and key slots
_SECTOR: Final = 512
_WRONG_KEY, _EXISTS = 2, 5  # exit statuses
_GONE = 4
PARAMETERS: Final[Mapping[EncryptionFormat, Mapping[str, str]]] = {
    EncryptionFormat.LUKS2: {
        "cipher": "aes-xts-plain64",
        "key-size": "512",
        "hash": "sha256",
        "pbkdf": "pbkdf2",
        "pbkdf-force-iterations": "1000",
        "offset": str(HEADER // _SECTOR),
    },
    EncryptionFormat.PLAIN: {"cipher": "aes-xts-plain64", "key-size": "512", "hash": "sha512"},
}

_ORDER: Final = ("cipher", "key-size", "hash", "pbkdf", "pbkdf-force-iterations", "offset")


def overhead(format: EncryptionFormat) -> int:
    """Bytes of the volume that the guest does not see."""
    return HEADER if format == EncryptionFormat.LUKS2 else 0


def mapping(volume: str) -> str:
    """The name of what a volume is opened as."""
    return f"{volume}-dmcrypt"


def node(volume: str) -> Path:
    return Path("/dev/mapper") / mapping(volume)


def format_volume(device: Path, parameters: Mapping[str, str], key: bytes) -> None:
    """Write a LUKS2 header; what was on the device is lost."""
    words = ["luksFormat", "-q", "--type", "luks2", *_words(parameters), "--key-file", "-", str(device)]
    privilege.run(["cryptsetup", *words], input=key)


def open_volume(device: Path, volume: str, format: EncryptionFormat, parameters: Mapping[str, str], key: bytes) -> Path:
    """The node of the volume in clear, which this user may open. Open already is success.

    :raises OperatorError: the key is wrong (only LUKS2 can tell)
    """
    if format not in PARAMETERS:
        raise InvalidRequest(reason=f"a volume cannot be encrypted as {format}", hint="luks2 or plain")
    how = ["--type", format.value, *(_words(parameters) if format == EncryptionFormat.PLAIN else [])]
    try:
        if block.size(node(volume)) is None:
            privilege.run(["cryptsetup", "open", *how, "--key-file", "-", str(device), mapping(volume)], input=key)
    except ToolFailed as error:
        if error.status == _WRONG_KEY:
            raise OperatorError(reason=f"the key of {volume} does not open it") from error
        if error.status != _EXISTS or block.size(node(volume)) is None:
            raise
    block.wait(node(volume))
    block.grant(node(volume))
    return node(volume)


def is_open(volume: str) -> bool:
    return block.size(node(volume)) is not None


def grow(volume: str, key: bytes) -> None:
    """An open one becomes as large as what is under it."""
    privilege.run(["cryptsetup", "resize", "--key-file", "-", mapping(volume)], input=key)


def close(volume: str) -> None:
    """Not open is success. :raises Busy: somebody has it open"""
    if not is_open(volume):
        return
    try:
        privilege.run(["cryptsetup", "close", mapping(volume)])
    except ToolFailed as error:
        if error.status == _GONE or not is_open(volume):
            return
        if error.status == _EXISTS or "in use" in error.output:
            raise Busy(what=f"volume {mapping(volume)}", holder="a process that has it open") from error
        raise


def _words(parameters: Mapping[str, str]) -> list[str]:
    """In the order that the privilege table knows; a manifest has another."""
    return [word for name in _ORDER if name in parameters for word in (f"--{name}", parameters[name])]
