"""What ``get_model`` returns: a disk without its backend, for code that mounts or injects."""

from __future__ import annotations

from dataclasses import dataclass, field

from cowshed.errors import InvalidRequest

FORMAT_RAW, FORMAT_QCOW2, FORMAT_PLOOP = "raw", "qcow2", "ploop"
ALL_FORMATS = (FORMAT_RAW, FORMAT_QCOW2, FORMAT_PLOOP)


@dataclass(frozen=True)
class ImageModel:
    """:raises InvalidRequest: the format is not one of ``ALL_FORMATS``"""

    format: str

    def __post_init__(self) -> None:
        if self.format not in ALL_FORMATS:
            raise InvalidRequest(
                reason=f"image format {self.format!r} is unknown", hint=f"known: {', '.join(ALL_FORMATS)}"
            )


@dataclass(frozen=True)
class LocalImage(ImageModel):
    format: str = field(kw_only=False)
    path: str = ""

    def __init__(self, path: str, format: str) -> None:
        object.__setattr__(self, "path", path)
        object.__setattr__(self, "format", format)
        self.__post_init__()


class LocalFileImage(LocalImage):
    """A file of the host."""


class LocalBlockImage(LocalImage):
    """A block device of the host; always raw."""

    def __init__(self, path: str) -> None:
        super().__init__(path, FORMAT_RAW)


@dataclass(frozen=True)
class RBDImage(ImageModel):
    """``servers`` are ``host:port`` with the brackets of IPv6 kept; ``password`` is not printed."""

    name: str = ""
    pool: str = ""
    user: str | None = None
    password: str | None = field(default=None, repr=False)
    servers: tuple[str, ...] = ()

    def __init__(self, name: str, pool: str, user: str | None, password: str | None, servers: list[str]) -> None:
        for key, value in (("name", name), ("pool", pool), ("user", user), ("password", password)):
            object.__setattr__(self, key, value)
        object.__setattr__(self, "servers", tuple(servers))
        object.__setattr__(self, "format", FORMAT_RAW)
