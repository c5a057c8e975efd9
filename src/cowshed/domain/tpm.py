"""The TPM: swtpm's, with its state kept by libvirt."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Final

from cowshed.domain.element import Element, value
from cowshed.domain.properties import Properties

MODELS: Final = {"1.2": ("tpm-tis",), "2.0": ("tpm-crb", "tpm-tis")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tpm(Element):
    TAG: ClassVar[str] = "tpm"

    model: str | None = value("@model")
    backend: str | None = value("backend/@type")
    version: str | None = value("backend/@version")


def tpms(properties: Properties) -> tuple[Tpm, ...]:
    """:raises InvalidRequest: a version or model that does not exist, or not together"""
    version = properties.word("hw_tpm_version", "", tuple(MODELS))
    if not version:
        return ()
    models = MODELS[version]
    return (Tpm(model=properties.word("hw_tpm_model", models[0], models), backend="emulator", version=version),)
