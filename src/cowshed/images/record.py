"""The record of an image: one small JSON file that carries its own version and checksum."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from cowshed.errors import DataCorrupt, InvalidRequest
from cowshed.model.disk import DiskFormat
from cowshed.model.image import Image, ImageStatus

VERSION: Final = 1
NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,127}")
UUID: Final = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", re.IGNORECASE)

# The digest that was checked when the bytes came in, where the record has another: they were unpacked, or it costs more.
SOURCE_DIGEST: Final = "source_digest"

_LARGEST: Final = 1 << 20  # bytes; nobody's properties are longer
_ENDINGS: Final = (".gz", ".xz", ".zst", ".zstd", ".qcow2", ".raw", ".img", ".iso", ".qcow")


def check_name(name: str) -> str:
    """:raises InvalidRequest: ``name`` cannot be an image's name"""
    if not NAME.fullmatch(name):
        raise InvalidRequest(
            reason=f"{name!r} cannot be the name of an image",
            hint="use up to 128 letters, digits, dots, dashes, colons and underscores, a letter or digit first",
        )
    if UUID.fullmatch(name):
        raise InvalidRequest(reason=f"{name!r} looks like a UUID; it could be taken for another image's")
    return name


def default_name(source: str) -> str:
    """The file name in a path or URL without the endings that name formats.

    :raises InvalidRequest: nothing is left that could be a name
    """
    try:
        path = unquote(urlsplit(source).path) if "://" in source else source
    except ValueError as error:
        raise InvalidRequest(reason=f"{source.rpartition('@')[2]} is not a URL: {error}") from error
    name = re.sub(r"[^A-Za-z0-9._:-]+", "-", path.rstrip("/").rpartition("/")[2])
    while name.lower().endswith(_ENDINGS):
        name = name.rpartition(".")[0]
    name = name.lstrip("._:-")[:128]
    if not name:
        shown = source.rpartition("@")[2] or "an empty source"  # no password
        raise InvalidRequest(reason=f"{shown} gives the image no name", hint="give one with --name")
    return check_name(f"image-{name}" if UUID.fullmatch(name) else name)


def encode(image: Image) -> bytes:
    """:raises InvalidRequest: the properties are too many or not text"""
    body = asdict(image)
    body["properties"] = dict(image.properties)
    data = json.dumps({"version": VERSION, "checksum": _checksum(body), "image": body}, indent=1).encode()
    if len(data) > _LARGEST:
        raise InvalidRequest(reason=f"the properties of image {image.name or image.id} are longer than 1 MiB")
    return data


def read(path: Path) -> Image:
    """:raises DataCorrupt: the file is not a record that was written whole by a version we know
    :raises FileNotFoundError:"""
    with path.open("rb") as file:
        data = file.read(_LARGEST + 1)
    try:
        record = json.loads(data)
        version, body = record["version"], record["image"]
        if version > VERSION:
            raise DataCorrupt(path=path, reason=f"it was written by a newer version (record version {version})")
        if record["checksum"] != _checksum(body):
            raise DataCorrupt(path=path, reason="the checksum does not match")
        return _image(body)
    except (ValueError, KeyError, TypeError) as error:
        raise DataCorrupt(path=path, reason=f"it is not an image record ({error})") from error


def _image(body: dict[str, Any]) -> Image:
    known = {name: body[name] for name in Image.__slots__ if name in body}
    known["status"] = ImageStatus(known["status"])
    known["disk_format"] = DiskFormat(known["disk_format"])
    return Image(**known)


def _checksum(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
