"""Secrets as libvirt declares them: who uses one, and how long it is kept; never its value."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar, Final

from cowshed.domain.element import Element, child, value


class SecretUsage(StrEnum):
    """libvirt's ``<usage type=...>``; the element that names the user is called differently in each."""

    VOLUME = "volume"
    CEPH = "ceph"
    ISCSI = "iscsi"


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage(Element):
    """The name stands where ``NAMED`` says."""

    TAG: ClassVar[str] = "usage"

    type: SecretUsage | None = value("@type")
    volume: str | None = value("volume")
    name: str | None = value("name")
    target: str | None = value("target")


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret(Element):
    """``ephemeral``: not kept on disk; ``private``: told to nobody but libvirt's own drivers."""

    TAG: ClassVar[str] = "secret"

    ephemeral: bool | None = value("@ephemeral")
    private: bool | None = value("@private")
    uuid: str | None = value("uuid")
    description: str | None = value("description")
    usage: Usage | None = child()


NAMED: Final = {SecretUsage.VOLUME: "volume", SecretUsage.CEPH: "name", SecretUsage.ISCSI: "target"}
